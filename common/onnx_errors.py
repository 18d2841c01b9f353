"""The reason in an error of ONNX Runtime, short enough for one line."""

from __future__ import annotations

import re

MAX_REASON = 600
# "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : ", then often the place in its source: file:line and a C++ signature.
_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_PLACE = re.compile(r"\S*/\S+\.(?:cc|h|cpp):\d+ [\w:<>~ ,*&]+\([^()]*\)(?: const)?(?: \[with [^\]]*\])? ")


def onnx_reason(error: Exception) -> str:
    """One line with the numbers of the error: shapes and sizes come last, so the middle is cut and not the end."""
    text = " ".join(str(error).split())
    text = _PLACE.sub("", _CODE.sub("", text))
    if len(text) <= MAX_REASON:
        return text
    half = MAX_REASON // 2
    return f"{text[:half]} … {text[-half:]}"
