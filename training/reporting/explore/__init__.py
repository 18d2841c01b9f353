"""What a data set is like: `explore` gives the figures, `plots` the pictures, `page` the report."""

from training.reporting.explore.figures import explore

__all__ = ["explore"]
