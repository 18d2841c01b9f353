"""From recordings to a served model: data sets, models, evaluation, promotion, reports.

Cores take arrays and return arrays: problem, forecasting, fitting, judging. Edges read recordings (problem.data), write
bundles and runs (shipping) and pages (reporting), follow live data (monitoring, drift), and are called (commands).
pyproject.toml has the order in which packages may import each other.
"""

# Names of training.forecasting.kinds.KINDS, for commands that offer them before scikit-learn is imported.
MODEL_TYPES = ("climatology", "zscore", "ewma", "har", "logistic", "ridge", "xgboost")
# What `--dataset` names: recordings of the shared data (training/problem/recordings.py).
DATASETS = ("ticks", "streams", "quotes", "recordings")
