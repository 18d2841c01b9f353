"""Scores of probabilities of a rare event beside every baseline, with bootstrap intervals.

The core takes scored parts (training/judging/scored_part.py) and returns a ModelEval. training.reporting turns a
ModelEval into pictures and HTML.
"""

from training.judging.evaluation.evaluate import evaluate_scored
from training.judging.evaluation.result import ModelEval, Settings

__all__ = ["ModelEval", "Settings", "evaluate_scored"]
