"""How good probabilities of a rare event are, beside every baseline, and how sure of that one may be.

The core takes scored parts (training/judging/scored.py) and returns a ModelEval: blocks, episodes, figures, groups,
evaluate, result. plots and page turn a ModelEval into pictures and HTML, as bytes and text.
"""

from training.judging.evaluation.evaluate import evaluate_scored
from training.judging.evaluation.result import ModelEval, Settings

__all__ = ["ModelEval", "Settings", "evaluate_scored"]
