"""The request that the serving benchmark sends, and the proof that it is answered."""

from __future__ import annotations

from array import array

from clients.requests import packed_request
from clients.sync import Client
from common.access import make_access
from common.schema import CORE_1, CORE_1_EXAMPLE
from volcast.v1 import PredictRequest, PredictResponse

ROW = array("d", [CORE_1_EXAMPLE[name] for name in CORE_1.names])


def request(rows: int = 1) -> PredictRequest:
    return packed_request(ROW * rows, rows, CORE_1.hash)


def ask(address: str, rows: int = 1, ca: str = "") -> PredictResponse:
    with Client(address, access=make_access(ca=ca)) as client:
        return client.predict_packed(ROW * rows, rows, CORE_1.hash)


def check(address: str, rows: int = 1, ca: str = "") -> int:
    """The least bytes of an answer with its prefix of five; raises where there is not a probability for each row."""
    response = ask(address, rows, ca)
    if len(response.probabilities) != rows or not all(0 < one < 1 for one in response.probabilities):
        raise RuntimeError(f"{address} answers wrongly: {response}")
    # Times differ from call to call, and so does how many bytes they take.
    response.ClearField("queue_ns")
    response.ClearField("compute_ns")
    return 5 + response.ByteSize()
