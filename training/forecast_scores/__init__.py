"""Scores, comparisons, alerts, plots and gate checks of forecasts of a distribution of volatility."""
