"""Every training run, kept: first whole on this disk, then in MLflow.

record writes a run to a folder and reads it again, and knows no MLflow. mlflow_server uploads such folders and
moves the registry's aliases; it imports MLflow, which takes seconds, only when it is asked to. So a tracking
server that is away costs nothing but a line: the run waits in its folder until `volcast models sync`, or the
next training, brings it there.
"""

from training.shipping.tracking.record import Run, log_run, read_run

__all__ = ["Run", "log_run", "read_run"]
