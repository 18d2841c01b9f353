"""Forecasts of the distribution of realized volatility over the next minute."""
