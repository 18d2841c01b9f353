"""The old place of `training.problem.target`, until all branches use the new place."""

from training.problem.target import (
    BPS as BPS,
)
from training.problem.target import (
    NS_PER_S as NS_PER_S,
)
from training.problem.target import (
    Floats as Floats,
)
from training.problem.target import (
    Ints as Ints,
)
from training.problem.target import (
    Target as Target,
)
from training.problem.target import (
    spans as spans,
)
