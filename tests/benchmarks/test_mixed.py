"""The mixed run: right answers pass, and each kind of wrong answer is a fault."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.mixed import SHARES, mixed_run
from benchmarks.mixed_cases import DEFAULT, MODELS, OTHER, STABLE, TOLERANCE, Case, Cases, Reference
from benchmarks.mixed_clients import PREDICT_PATH, Outcome
from volcast.v1 import PredictResponse

ANSWERING = frozenset({STABLE})


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(MODELS)


@pytest.fixture
def case(reference: Reference) -> Case:
    """Rows of the default model's stable version."""
    cases = Cases(reference, "test")
    return next(
        case
        for case in iter(cases.unary, None)
        if (case.path, case.name, case.version) == (PREDICT_PATH, DEFAULT, "") and case.matrix is not None
    )


def answer(reference: Reference, case: Case, version: str = STABLE, error: float = 0.0, name: str = DEFAULT) -> Outcome:
    assert case.matrix is not None
    values = reference.probabilities(DEFAULT, version, case.matrix)
    values[-1] += error
    return Outcome(PredictResponse(model_name=name, model_version=version, probabilities=values).SerializeToString())


def test_the_answer_of_onnx_runtime_is_right(reference: Reference, case: Case) -> None:
    assert reference.fault_of(case, answer(reference, case), ANSWERING) == ""


def test_a_value_beyond_the_tolerance_is_a_fault(reference: Reference, case: Case) -> None:
    assert "differs by" in reference.fault_of(case, answer(reference, case, error=2 * TOLERANCE), ANSWERING)
    assert "differs by" in reference.fault_of(case, answer(reference, case, error=np.nan), ANSWERING)


def test_another_version_and_another_model_are_faults(reference: Reference, case: Case) -> None:
    assert "expected version" in reference.fault_of(case, answer(reference, case, OTHER), ANSWERING)
    assert reference.fault_of(case, answer(reference, case, OTHER), ANSWERING | {OTHER}) == ""
    assert "expected model" in reference.fault_of(case, answer(reference, case, name="other"), ANSWERING)


def test_a_missing_row_and_a_status_are_faults(reference: Reference, case: Case) -> None:
    short = PredictResponse(model_name=DEFAULT, model_version=STABLE).SerializeToString()
    assert "probabilities, got 0" in reference.fault_of(case, Outcome(short), ANSWERING)
    assert "expected an answer" in reference.fault_of(case, Outcome(code=14), ANSWERING)


def test_a_refusal_with_another_code_or_field_is_a_fault(reference: Reference) -> None:
    cases = Cases(reference, "test")
    case = next(case for case in iter(cases.unary, None) if case.refusal is not None)
    assert case.refusal is not None
    code, field = case.refusal.code, case.refusal.field
    assert reference.fault_of(case, Outcome(code=code, fields=(field,)), ANSWERING) == ""
    assert reference.fault_of(case, Outcome(code=13, fields=(field,)), ANSWERING)
    assert reference.fault_of(case, Outcome(code=code, fields=("other",)), ANSWERING)
    assert reference.fault_of(case, Outcome(b""), ANSWERING)


def test_cases_are_the_same_for_the_same_seed(reference: Reference) -> None:
    first, second, other = (Cases(reference, seed) for seed in ("a", "a", "b"))
    raws = [[cases.unary().raw for _ in range(20)] for cases in (first, second, other)]
    assert raws[0] == raws[1] != raws[2]


@pytest.mark.parametrize("front", ["native", "grpcio"])
def test_a_short_run_finds_no_wrong_answer(front: str) -> None:
    run = mixed_run(600, 7, front)
    assert run.faults == []
    assert run.done == 600
    assert run.after_swap > 0
    assert {client for client, _ in run.counts} == set(SHARES)
