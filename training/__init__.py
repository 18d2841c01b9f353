"""Data sets, labels, splits, models, evaluation, ONNX export.

The cores take arrays and return arrays: labels, sampling, splits, leakage, scales, models, search, experiment,
evaluation, gate. The edges read data (data), write bundles, runs and reports (bundle, tracking, reports), move what
is served (store, promotion) and are called (commands).
"""

# Names of training.models.KINDS, for who offers them and must not import scikit-learn to do so.
MODEL_TYPES = ("zscore", "ewma", "har", "har_returns", "logistic", "xgboost")
