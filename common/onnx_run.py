"""Options of a run in ONNX Runtime, for parts that run a graph many times with bound buffers."""

from __future__ import annotations

import onnxruntime


class BoundRun(onnxruntime.RunOptions):  # type: ignore[misc]  # ONNX Runtime has no types
    """Default options, made once: making them takes 1 us of every run without options.

    ONNX Runtime's Python wrapper looks up which graph of WebGPU to replay. There is none. Without the method below it
    would raise and catch an exception for the missing entry, which takes 30 us.
    """

    def get_run_config_entry(self, key: str) -> str:
        return ""
