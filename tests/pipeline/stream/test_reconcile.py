"""Every offset accounted for: what the reconciliation finds."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest

from pipeline.stream.reconcile import FIRST_RECORDS, MAX_AHEAD, MAX_NAMED, Account, Progress, Reconciliation
from volcast.v1 import FeatureRow, Prediction

T = "ticks.raw"
END = 10


def good(skipped: int = -1) -> Reconciliation:
    """Offsets 0 to 9: a gap at 0, a late tick at 1, a dead letter at 2, cold rows at 3 and 4, warm rows from 5 on."""
    look = Reconciliation(T, {0: 0})
    for offset in range(END):
        if offset == skipped:
            continue
        look.raw(0, offset, gap=offset == 0)
        if offset in (1, 2):
            look.aside(f"{T}[0]@{offset}")
        elif offset:
            look.row(0, offset, warm=offset >= 5)
        if offset >= 5:
            look.prediction(0, offset)
    return look


def judged(look: Reconciliation, committed: int = END, owed_from: int | None = None) -> Account:
    return look.account({0: Progress(committed, owed_from)})


def test_good_topics_have_no_faults_and_every_offset_is_counted() -> None:
    account = judged(good())
    assert not account.faults
    assert (account.records, account.gaps, account.set_aside, account.rows, account.predictions) == (10, 1, 2, 7, 5)


def test_offsets_that_transactions_skip_are_no_faults() -> None:
    assert not judged(good(skipped=7)).faults


CHANGES: list[tuple[str, Callable[[Reconciliation], None]]] = [
    ("neither feature row nor late, dead or gap", lambda look: look.raw(0, 10, gap=False)),
    ("more than one of feature row, late, dead and gap", lambda look: look.aside(f"{T}[0]@3")),
    ("more than one of feature row, late, dead and gap", lambda look: look.row(0, 0, warm=False)),
    ("a record twice", lambda look: look.row(0, 6, warm=True)),
    ("a record twice", lambda look: look.prediction(0, 6)),
    ("a record twice", lambda look: look.aside(f"{T}[0]@1")),
    ("a feature row, late tick or dead letter without a record", lambda look: look.row(0, 10, warm=False)),
    ("a prediction without a warm feature row", lambda look: look.prediction(0, 3)),
]


@pytest.mark.parametrize(("fault", "change"), CHANGES)
def test_a_fault_is_counted_and_named(fault: str, change: Callable[[Reconciliation], None]) -> None:
    look = good()
    change(look)
    account = judged(look, committed=11)
    assert account.faults == {fault: 1}
    assert account.named[0].startswith(f"{T}[0]@")
    assert account.named[0].endswith(fault)


def test_a_warm_row_without_a_prediction_is_a_fault_unless_it_is_owed() -> None:
    look = good()
    look.raw(0, 10, gap=False)
    look.row(0, 10, warm=True)
    assert judged(look, 11).faults == {"a warm feature row without a prediction": 1}
    assert not judged(look, 11, owed_from=10).faults
    assert judged(look, 11, owed_from=10).owed == 1
    assert judged(look, 11, owed_from=11).faults


def test_records_that_are_not_committed_yet_are_left_out() -> None:
    look = good()
    look.raw(0, 10, gap=False)
    assert not judged(look, committed=10).faults
    assert judged(look, committed=11).faults


def test_rows_of_earlier_offsets_and_other_partitions_are_left_out() -> None:
    look = Reconciliation(T, {0: 100})
    look.row(0, 99, warm=True)
    look.prediction(0, 99)
    look.row(3, 100, warm=True)
    look.aside("connection 1 message 2")
    look.aside(f"another{T}[0]@100")
    assert judged(look, 200) == Account()


def test_any_number_of_offsets_fits_and_only_the_first_faults_are_named() -> None:
    look = Reconciliation(T, {0: 0})
    count = 3 * FIRST_RECORDS
    for offset in range(count):
        look.raw(0, offset, gap=False)
    account = judged(look, count)
    assert account.records == account.faults.total() == count
    assert len(account.named) == MAX_NAMED


def row_of(offset: int) -> bytes:
    return FeatureRow(venue="coinbase", source_partition=0, source_offset=offset).SerializeToString()


@pytest.mark.parametrize(("shortened", "faults", "not_judged"), [({7}, 0, 6), ((), 4, 0), ({8}, 4, 0)])
def test_records_whose_rows_retention_may_have_deleted_are_not_judged(
    shortened: Collection[int], faults: int, not_judged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stream.reconcile.OUT_OF_ORDER_ROWS", 2)
    look = Reconciliation(T, {0: 0}, shortened_rows=shortened)
    for offset in range(END):
        look.raw(0, offset, gap=False)
    for offset in range(4, END):  # those of 0 to 3 are deleted
        look.take_row(row_of(offset), 7, offset)
    account = judged(look)
    assert (account.faults.total(), account.not_judged) == (faults, not_judged)
    assert account.records == account.rows + faults == END - not_judged


def test_faults_after_the_records_that_are_not_judged_are_named_by_their_offset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.stream.reconcile.OUT_OF_ORDER_ROWS", 2)
    look = Reconciliation(T, {0: 0}, shortened_predictions={3})
    for offset in range(END):
        look.raw(0, offset, gap=False)
        look.row(0, offset, warm=True)
    prediction = Prediction(venue="coinbase", source_partition=0, source_offset=4).SerializeToString()
    look.take_prediction(prediction, 3, 0)
    account = judged(look, owed_from=8)
    assert account.named == [f"{T}[0]@{offset}: a warm feature row without a prediction" for offset in (6, 7)]
    assert account.owed == 2


@pytest.mark.parametrize("ahead", [MAX_AHEAD, 2**62])
def test_a_source_offset_that_cannot_be_is_a_fault_and_takes_no_memory(ahead: int) -> None:
    look = good()
    look.row(0, END + ahead, warm=False)
    assert judged(look).faults == {"a source offset far beyond ticks.raw": 1}


def test_repeats_are_no_faults_where_they_are_allowed() -> None:
    look = Reconciliation(T, {0: 0}, repeats=True)
    look.raw(0, 0, gap=False)
    for _ in range(2):
        look.row(0, 0, warm=True)
        look.prediction(0, 0)
    assert not judged(look, 1).faults
