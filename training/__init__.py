"""From recordings to a served model: data sets, models, evaluation, promotion, reports.

Cores take arrays and return arrays: problem, models, fitting, judging. Edges read recordings (problem.data), write
bundles and runs (shipping) and pages (reporting), follow live data (monitoring, drift), and are called (commands).
pyproject.toml has the order in which packages may import each other.
"""

# Names of training.models.KINDS, for commands that offer them before scikit-learn is imported.
MODEL_TYPES = ("zscore", "ewma", "har", "har_returns", "logistic", "xgboost")
# Few rows of ticks are spikes, and spikes cluster in time. With eight folds instead of five, more folds hold spikes.
TICKS_FOLDS, FOLDS = 8, 5
