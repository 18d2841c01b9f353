"""Training runs: first a whole folder on this disk, then MLflow.

record writes a run to a folder and reads it, without MLflow; evidence has the data of a run. mlflow_server uploads such
folders and moves the registry's aliases; it imports MLflow, which takes seconds, only when it needs it. If the tracking
server is not available, the run waits in its folder until `volcast models sync` or the next training.
"""

from training.shipping.tracking.record import Run, log_run, read_run

__all__ = ["Run", "log_run", "read_run"]
