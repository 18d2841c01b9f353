from __future__ import annotations

import numpy as np
import pytest

from common.errors import TrainingError
from training.shipping import export


def test_an_export_that_differs_on_one_row_is_refused() -> None:
    trained = np.linspace(0, 1, 100)
    exported = trained.copy()
    exported[42] += 2e-5
    with pytest.raises(TrainingError, match=r"differs from the trained form by 2e-05 on row 42 of 100"):
        export.check_parity(exported, trained)


def test_an_export_that_gives_no_number_is_refused() -> None:
    with pytest.raises(TrainingError, match="by nan"):
        export.check_parity(np.array([np.nan, 0.5]), np.array([0.5, 0.5]))
