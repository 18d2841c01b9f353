"""The old place of `training.problem.recordings`, until all branches use the new place."""

from training.problem.recordings import (
    DEFAULT_TARGET as DEFAULT_TARGET,
)
from training.problem.recordings import (
    ForecastRows as ForecastRows,
)
from training.problem.recordings import (
    Recording as Recording,
)
from training.problem.recordings import (
    known_recordings as known_recordings,
)
from training.problem.recordings import (
    pooled as pooled,
)
from training.problem.recordings import (
    read_recording as read_recording,
)
