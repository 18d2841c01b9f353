"""PR-AUC and ROC-AUC as functions of how often each block of time is drawn.

PR-AUC is average precision (scikit-learn's step sum, no interpolation). ROC-AUC is the area by trapezoids, ties half
right.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.judging import kernels


def areas(
    y: NDArray[np.int8], probability: NDArray[np.float64], block: NDArray[np.int64], draws: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """PR-AUC and ROC-AUC of rows (rows,) weighted by how often their block is drawn, (draws,) each.

    NaN where a draw holds no spike, or nothing but spikes: any order of such rows would score 1.
    """
    order = np.argsort(-probability, kind="stable")
    ends_tie = np.append(np.diff(probability[order]) != 0, True)
    pr_auc, roc_auc = np.empty(len(draws)), np.empty(len(draws))
    kernels.areas()(
        y[order] == 1, block[order].astype(np.int64), ends_tie, np.ascontiguousarray(draws.T), pr_auc, roc_auc
    )
    return pr_auc, roc_auc
