"""From a run to what is served: the gate before it, three writes in order, and one command back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from common.errors import GateError, InputError, UnavailableError, UsageError
from common.labels import CanaryLabel, Labels
from common.model_store import ModelStore, Moved, Role
from tests.training import runs
from tests.training.runs import Made, leaky, make
from training.judging.gate import GateLimits
from training.shipping import promotion
from training.shipping.aliases import reconcile
from training.shipping.promotion import Judged
from training.shipping.trained_form import TRAINED_FILE

pytestmark = pytest.mark.process

LIMITS = GateLimits(max_latency_us=1000.0, champion_margin=0.2)
NOW_MS = 1_765_000_000_000


class FakeRegistry:
    """A registry in memory; `away` makes it fail from its nth call on."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.aliases: dict[str, str] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.calls = 0
        self.away_from = 10**9

    def _call(self) -> None:
        self.calls += 1
        if self.calls >= self.away_from:
            raise UnavailableError("tracking server is away")

    def upload(self, folder: Path) -> str:
        self._call()
        if folder.name not in self.runs:
            self.runs.append(folder.name)
        return str(self.runs.index(folder.name) + 1)

    def point(self, name: str, alias: Role, version: str | None) -> None:
        self._call()
        if version is None:
            self.aliases.pop(alias, None)
        else:
            self.aliases[alias] = version

    def registered(self, name: str, run: str) -> str | None:
        self._call()
        return str(self.runs.index(run) + 1) if run in self.runs else None

    def note(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        self._call()
        self.tags.setdefault(version, {}).update(tags)

    def noted(self, name: str, alias: Role, tag: str) -> str | None:
        return self.tags.get(self.aliases.get(alias, ""), {}).get(tag)


@pytest.fixture(scope="module")
def made() -> Made:
    return runs.first()


@pytest.fixture(scope="module")
def later() -> Made:
    return runs.later()


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", "volatility")


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def judged(made: Made, runs_dir: Path, store: ModelStore, started_s: float = 1_765_000_000.0) -> Judged:
    return promotion.judge(made.write(runs_dir, started_s), store, LIMITS)


def promote(one: Judged, store: ModelStore, role: Role = "champion", **other: float) -> Moved:
    return promotion.promote(one, store, None, role, canary_share=other.get("share"), now_ms=NOW_MS)


def test_the_first_model_of_a_name_becomes_champion_with_its_trained_form_beside_it(
    made: Made, runs_dir: Path, store: ModelStore
) -> None:
    registry = FakeRegistry()
    moved = promotion.promote(judged(made, runs_dir, store), store, registry, "candidate", now_ms=NOW_MS)
    assert (moved.version, moved.role, moved.changed) == ("1", "champion", True)
    assert store.labels() == Labels("1")
    assert (store.path("1") / TRAINED_FILE).is_file()
    assert registry.aliases == {"champion": "1"}
    assert registry.tags == {"1": {"volcast.version": "1"}}


def test_a_candidate_is_a_shadow_and_the_champion_goes_on_answering(
    made: Made, later: Made, runs_dir: Path, store: ModelStore
) -> None:
    registry = FakeRegistry()
    promotion.promote(judged(made, runs_dir, store), store, registry, "champion", now_ms=NOW_MS)
    moved = promotion.promote(judged(later, runs_dir, store), store, registry, "candidate", now_ms=NOW_MS)
    assert moved.version == "2"
    assert store.labels() == Labels("1", None, ("2",))
    assert store.history().candidate == "2"
    assert registry.aliases == {"champion": "1", "candidate": "2"}


def test_a_candidate_with_a_share_is_a_canary(made: Made, later: Made, runs_dir: Path, store: ModelStore) -> None:
    promote(judged(made, runs_dir, store), store)
    promote(judged(later, runs_dir, store), store, "candidate", share=0.05)
    assert store.labels() == Labels("1", CanaryLabel("2", 0.05))


def test_a_candidate_beside_versions_that_only_their_order_labels_does_not_become_stable(
    made: Made, later: Made, runs_dir: Path, store: ModelStore
) -> None:
    store.put(made.manifest, made.model, {})
    assert store.labels() is None
    promote(judged(later, runs_dir, store), store, "candidate")
    assert store.labels() == Labels("1", None, ("2",))


def test_a_candidate_beside_versions_without_an_order_is_refused(
    made: Made, later: Made, runs_dir: Path, store: ModelStore
) -> None:
    for version in ("3f2e9c1", "a81bd02"):
        (store.folder / version).mkdir(parents=True)
        (store.folder / version / "manifest.json").touch()
    with pytest.raises(UsageError, match=r"no version is stable, and the versions 3f2e9c1, a81bd02 have no order"):
        promote(judged(made, runs_dir, store), store, "candidate")
    assert list(store.versions()) == ["3f2e9c1", "a81bd02"]


def test_a_candidate_that_becomes_champion_is_a_shadow_no_more(
    made: Made, later: Made, runs_dir: Path, store: ModelStore
) -> None:
    promote(judged(made, runs_dir, store), store)
    second = judged(later, runs_dir, store)
    promote(second, store, "candidate")
    moved = promote(second, store)
    assert (moved.version, moved.previous) == ("2", "1")
    assert store.labels() == Labels("2")
    assert store.history().candidate == ""


def test_promoting_twice_changes_nothing_the_second_time(made: Made, runs_dir: Path, store: ModelStore) -> None:
    one = judged(made, runs_dir, store)
    promote(one, store)
    before = store.history()
    assert not promote(one, store).changed
    assert list(store.versions()) == ["1"]
    assert store.history() == before


def test_a_refused_model_changes_nothing_and_every_reason_is_told(
    made: Made, runs_dir: Path, store: ModelStore
) -> None:
    registry = FakeRegistry()
    one = judged(leaky(), runs_dir, store)
    with pytest.raises(GateError, match=r"is refused: .*foresight: features are more correlated") as refusal:
        promotion.promote(one, store, registry, "champion", now_ms=NOW_MS)
    assert len(refusal.value.reasons) == 3
    assert not store.folder.exists()
    assert registry.calls == 0


def test_a_graph_whose_weights_were_changed_is_refused_by_its_trained_form(runs_dir: Path, store: ModelStore) -> None:
    """The run's bundle holds another graph than the one its trained form stands for."""
    mixed = make()
    mixed.trained = runs.later().fitted
    checks = {check.name: check for check in judged(mixed, runs_dir, store).checks}
    assert not checks["parity"].passed
    assert "ONNX and trained form differ by" in checks["parity"].text


def test_a_trained_form_of_another_kind_than_the_manifest_says_is_refused(runs_dir: Path, store: ModelStore) -> None:
    made = make()
    made.change(kind="ridge", inputs=("return_1s", "return_5s", "volatility"))
    with pytest.raises(InputError, match=r"the trained form is har of return_5s, .*, the manifest says ridge of"):
        judged(made, runs_dir, store)


def test_a_model_worse_than_the_one_that_is_served_is_refused(made: Made, runs_dir: Path, store: ModelStore) -> None:
    """It looks at a feature that says nothing; the champion, asked about the same rows, is far better."""
    promote(judged(made, runs_dir, store), store)
    checks = {check.name: check for check in judged(runs.blind(), runs_dir, store).checks}
    assert checks["champion"].text.startswith("worse: CRPS +0.")
    assert "against champion 1, on " in checks["champion"].text
    assert checks["skill"].text.startswith("not shown to beat HAR")


def test_a_run_of_another_name_is_not_promoted(made: Made, runs_dir: Path, tmp_path: Path) -> None:
    other = ModelStore(tmp_path / "models", "other")
    with pytest.raises(UsageError, match="made 'volatility', not 'other'"):
        promote(judged(made, runs_dir, other), other)


def test_a_registry_that_is_away_is_told_before_anything_is_changed(
    made: Made, runs_dir: Path, store: ModelStore
) -> None:
    registry = FakeRegistry()
    registry.away_from = 1
    with pytest.raises(UnavailableError, match=r"^tracking server is away"):
        promotion.promote(judged(made, runs_dir, store), store, registry, "champion", now_ms=NOW_MS)
    assert not store.folder.exists()


def test_a_registry_that_goes_away_half_way_leaves_a_whole_promotion_that_the_next_try_completes(
    made: Made, runs_dir: Path, store: ModelStore
) -> None:
    registry = FakeRegistry()
    registry.away_from = 2
    one = judged(made, runs_dir, store)
    with pytest.raises(UnavailableError, match="version 1 is the champion now, and served; tracking server is away"):
        promotion.promote(one, store, registry, "champion", now_ms=NOW_MS)
    assert store.labels() == Labels("1")
    registry.away_from = 10**9
    promotion.promote(one, store, registry, "champion", now_ms=NOW_MS)
    assert registry.aliases == {"champion": "1"}


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_kill_between_two_writes_leaves_what_was_served_and_the_next_try_finishes(
    made: Made, later: Made, runs_dir: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Bundle, history, labels: whichever comes last before the end, the old labels stand."""
    promote(judged(made, runs_dir, store), store)
    second = judged(later, runs_dir, store)
    done = 0

    def dying(name: str) -> None:
        original = getattr(ModelStore, name)

        def write(self: ModelStore, *given: object) -> object:
            nonlocal done
            if done == writes:
                raise KeyboardInterrupt
            done += 1
            return original(self, *given)

        monkeypatch.setattr(ModelStore, name, write)

    for name in ("put", "write_history", "write_labels"):
        dying(name)
    with pytest.raises(KeyboardInterrupt):
        promote(second, store)
    monkeypatch.undo()
    assert store.labels() == Labels("1")
    assert promote(second, store).version == "2"
    assert store.labels() == Labels("2")
    assert store.rollback().version == "1"


def test_rollback_goes_one_champion_back_and_then_one_further(
    made: Made, later: Made, runs_dir: Path, store: ModelStore
) -> None:
    third = make(change=lambda rows: rows.take(slice(400, len(rows))))
    for number, one in enumerate((made, later, third)):
        promote(judged(one, runs_dir, store, 1_765_000_000.0 + number), store)
    assert store.labels() == Labels("3")
    assert store.rollback().version == "2"
    assert store.rollback().version == "1"
    with pytest.raises(UsageError, match="no champion is known before version 1"):
        store.rollback()
    assert store.labels() == Labels("1")


def test_rollback_keeps_the_candidate_on_trial_unless_it_is_the_one_gone_back_to(
    made: Made, later: Made, runs_dir: Path, store: ModelStore
) -> None:
    promote(judged(made, runs_dir, store), store)
    promote(judged(later, runs_dir, store), store)
    third = make(change=lambda rows: rows.take(slice(400, len(rows))))
    promote(judged(third, runs_dir, store), store, "candidate")
    assert store.rollback().labels == Labels("1", None, ("3",))


def test_rollback_refuses_where_the_version_before_is_gone(
    made: Made, later: Made, runs_dir: Path, store: ModelStore
) -> None:
    for one in (made, later):
        promote(judged(one, runs_dir, store), store)
    store.path("1").rename(store.folder / ".gone")
    with pytest.raises(UsageError, match="no version '1'"):
        store.rollback()
    assert store.labels() == Labels("2")


def test_aliases_follow_the_labels_afterwards(made: Made, later: Made, runs_dir: Path, store: ModelStore) -> None:
    registry = FakeRegistry()
    for number, one in enumerate((made, later)):
        promotion.promote(judged(one, runs_dir, store, 1_765_000_000.0 + number), store, registry, "champion", now_ms=1)
    store.rollback()
    assert registry.aliases == {"champion": "2"}
    assert reconcile(store, registry, runs_dir) == {"champion": "1"}
    assert registry.aliases == {"champion": "1"}


def test_an_alias_does_not_stay_on_a_withdrawn_model_where_the_one_before_is_not_in_the_registry(
    made: Made, later: Made, runs_dir: Path, store: ModelStore
) -> None:
    """As with the shipped versions, whose runs are kept nowhere."""
    registry = FakeRegistry()
    promote(judged(made, runs_dir, store), store)
    promotion.promote(judged(later, runs_dir, store, 1_765_000_001.0), store, registry, "champion", now_ms=1)
    assert registry.aliases == {"champion": "1"}
    store.rollback()
    assert reconcile(store, registry, runs_dir) == {"champion": None}
    assert registry.aliases == {}
    assert reconcile(store, registry, runs_dir) == {}


def test_a_bundle_whose_run_is_not_kept_has_no_evidence(made: Made, runs_dir: Path, store: ModelStore) -> None:
    store.put(made.manifest, made.model, {})
    with pytest.raises(UsageError, match=r"no run in .* made it, so there is no evidence"):
        promotion.chosen_run(store, runs_dir, "1", None)
    folder = made.write(runs_dir)
    assert promotion.chosen_run(store, runs_dir, "1", None) == folder
    assert promotion.chosen_run(store, runs_dir, None, folder.name[:12]) == folder
    with pytest.raises(UsageError, match="no run 'other'"):
        promotion.chosen_run(store, runs_dir, None, "other")
    with pytest.raises(UsageError, match="name a VERSION"):
        promotion.chosen_run(store, runs_dir, "1", folder.name)


def test_a_damaged_run_is_told(made: Made, runs_dir: Path, store: ModelStore) -> None:
    folder = made.write(runs_dir)
    (folder / "evidence" / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="evidence cannot be read"):
        promotion.judge(folder, store, LIMITS)


def test_a_graph_that_is_none_is_told_in_a_line(runs_dir: Path, store: ModelStore) -> None:

    broken = make()
    broken.model = b"no graph"
    broken.manifest = msgspec.structs.replace(broken.manifest, model_sha256=hashlib.sha256(broken.model).hexdigest())
    with pytest.raises(InputError, match="the model cannot be loaded"):
        promotion.judge(broken.write(runs_dir), store, LIMITS)
