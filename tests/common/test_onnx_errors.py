from __future__ import annotations

import pytest

from common.onnx_errors import MAX_REASON, onnx_reason

NODE = "Non-zero status code returned while running Reshape node. Name:'' Status Message: "
END = "The input tensor cannot be reshaped to the requested shape. Input shape:{2,11}, requested shape:{1,11}"
PLACE = (
    "/onnxruntime_src/onnxruntime/core/providers/cpu/tensor/reshape_helper.h:91 onnxruntime::ReshapeHelper::"
    "ReshapeHelper(const onnxruntime::TensorShape&, onnxruntime::TensorShapeVector&, bool) "
)


def test_the_numbers_are_kept_and_the_place_in_the_source_is_not() -> None:
    text = f"[ONNXRuntimeError] : 1 : FAIL : {NODE}{PLACE}{END}\n"
    assert onnx_reason(RuntimeError(text)) == NODE + END


def test_a_long_error_loses_its_middle() -> None:
    reason = onnx_reason(RuntimeError("begin " + "x" * 5000 + " {2,11}"))
    assert reason.startswith("begin ")
    assert reason.endswith(" {2,11}")
    assert len(reason) <= MAX_REASON + 3


@pytest.mark.parametrize("text", ["", "a\nb", "no path at all (1)", "[E] other"])
def test_other_errors_become_one_line(text: str) -> None:
    assert onnx_reason(RuntimeError(text)) == " ".join(text.split())
