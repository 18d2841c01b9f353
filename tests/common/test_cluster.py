"""A cluster that does not start is a line."""

from __future__ import annotations

from typing import Any

import distributed
import pytest

from common.cluster import dask_client
from common.errors import UnavailableError


def test_local_processes_that_do_not_start_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: Any) -> None:
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr(distributed, "LocalCluster", fail)
    with (
        pytest.raises(UnavailableError, match=r"--cluster local: its processes did not start: Nanny failed to start\."),
        dask_client("local", 1),
    ):
        pass
