"""Data sets, labels, splits, models, evaluation, ONNX export.

The cores take arrays and return arrays: labels, sampling, splits, leakage, inputs, models, metrics,
experiment. The edges read archives (dataset), compose the graph (export) and write files (bundle,
commands).
"""

# Names of training.models.KINDS, for who offers them and must not import scikit-learn to do so.
MODEL_TYPES = ("zscore", "ewma", "har", "logistic", "xgboost")
