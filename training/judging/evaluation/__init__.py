"""Blocks of time, episodes and alarms, and the two areas: what scores of forecasts are made of."""
