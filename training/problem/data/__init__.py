"""Data sets: recordings of every format and feature files, read into rows by one loader.

load() recognizes the format of each file and gives a Dataset: rows, dropped ticks by reason, and gaps.
"""

from training.problem.data.dataset import Dataset, Hole
from training.problem.data.load import load

__all__ = ["Dataset", "Hole", "load"]
