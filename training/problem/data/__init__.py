"""Data sets: recordings, feature files, polled quotes and minute files, read into rows by one loader.

load() tells kinds of files apart by what is in them and gives a Dataset, which says what was read, what was
dropped and why, and where the gaps are. Each kind has a reader of its own beside it.
"""

from training.problem.data.dataset import Dataset, Hole
from training.problem.data.load import find, load

__all__ = ["Dataset", "Hole", "find", "load"]
