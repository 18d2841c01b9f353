"""Exploration of a data set: what its features and its volatility are like before anything is trained.

figures.py computes (arrays in, values out), plots.py draws, page.py writes the report as HTML.
"""

from training.reporting.explore.figures import explore
from training.reporting.explore.result import Exploration

__all__ = ["Exploration", "explore"]
