"""The models folder as promotion writes it is what a server reads, at each moment of the writing."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

import msgspec
import pytest

from common.bundle import MANIFEST_FILE, read_bundle
from common.errors import InputError, UnavailableError, UsageError
from common.labels import CanaryLabel, Labels, decode_labels
from common.model_store import LOCK_FILE, History, ModelStore, model_names
from server.core.models import Repository
from tests.training.runs import Made, first


@pytest.fixture(scope="module")
def made() -> Made:
    return first()


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", "volatility")


def put(store: ModelStore, made: Made, *, threshold: float = 0.5) -> str:
    """A version for each threshold: other bundles, the same model."""
    return store.put(msgspec.structs.replace(made.manifest, decision_threshold=threshold), made.model, {})


def test_what_is_put_is_what_a_server_loads_and_answers_with(store: ModelStore, made: Made) -> None:
    assert put(store, made) == "1"
    snapshot = Repository("volatility").load(store.folder.parent)
    assert list(snapshot.models) == [("volatility", "1")]
    assert snapshot.failures == ()


def test_files_beside_the_bundle_disturb_no_server(store: ModelStore, made: Made) -> None:
    store.put(made.manifest, made.model, {"trained.json": b"{}"})
    store.write_history(History())
    store.pin()
    snapshot = Repository("volatility").load(store.folder.parent)
    assert snapshot.failures == ()
    assert [model.version for model in snapshot.labelled.values()] == ["1"]


def test_the_same_bundle_is_put_once_whatever_number_it_came_with(store: ModelStore, made: Made) -> None:
    assert put(store, made) == "1"
    assert store.put(msgspec.structs.replace(made.manifest, version="9"), made.model, {}) == "1"
    assert list(store.versions()) == ["1"]


def test_another_bundle_gets_the_next_number_and_says_so_itself(store: ModelStore, made: Made) -> None:
    (store.folder / "7").mkdir(parents=True)
    assert put(store, made) == "8"
    manifest, _ = read_bundle(store.path("8"))
    assert manifest.version == "8"


def test_a_number_above_all_others_is_kept(store: ModelStore, made: Made) -> None:
    assert store.put(msgspec.structs.replace(made.manifest, version="12"), made.model, {}) == "12"


@pytest.mark.parametrize(
    "labels",
    [
        Labels("1"),
        Labels("1", CanaryLabel("2", 0.25)),
        Labels("1", CanaryLabel("2", 0.25), ("3", "4")),
    ],
)
def test_labels_are_written_as_a_server_reads_them(store: ModelStore, labels: Labels) -> None:
    for version in "1234":
        (store.folder / version).mkdir(parents=True)
        (store.folder / version / MANIFEST_FILE).touch()
    store.write_labels(labels)
    assert decode_labels((store.folder / "labels.json").read_bytes()) == labels
    assert store.labels() == labels


def test_a_label_never_names_a_version_that_is_not_there(store: ModelStore, made: Made) -> None:
    put(store, made)
    with pytest.raises(InputError, match="version 2 is not there"):
        store.write_labels(Labels("1", None, ("2",)))
    assert store.labels() is None


def test_without_a_file_the_highest_number_is_stable_as_for_a_server(store: ModelStore, made: Made) -> None:
    for threshold in (0.1, 0.2):
        put(store, made, threshold=threshold)
    (store.folder / "10").mkdir()
    assert store.effective_labels() == Labels("2")
    (store.folder / "10" / MANIFEST_FILE).touch()
    assert store.effective_labels() == Labels("10")
    shutil.rmtree(store.folder / "10")
    snapshot = Repository("volatility").load(store.folder.parent)
    assert store.effective_labels() == Labels(snapshot.labelled["volatility", "stable"].version)


def test_the_newest_version_is_stable_in_natural_order_and_none_without_an_order(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, "volatility")
    for version in ("v9", "v10", "v11"):
        (store.folder / version).mkdir(parents=True)
        (store.folder / version / MANIFEST_FILE).touch()
    assert list(store.versions()) == ["v9", "v10", "v11"]
    assert store.effective_labels() == Labels("v11")
    (store.folder / "2026-11-27").mkdir()
    (store.folder / "2026-11-27" / MANIFEST_FILE).touch()
    assert store.effective_labels() is None
    with pytest.raises(InputError, match=r"no stable version of volatility .* have no order"):
        store.answering()
    store.pin()
    assert store.labels() is None


def test_folders_without_a_bundle_file_are_no_versions(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, "volatility")
    for name in ("1", "7", "__pycache__"):
        (store.folder / name).mkdir(parents=True)
    (store.folder / "1" / MANIFEST_FILE).touch()
    assert list(store.versions()) == ["1"]


def test_pinning_writes_down_what_is_stable_and_leaves_a_file_alone(store: ModelStore, made: Made) -> None:
    store.folder.mkdir(parents=True)
    store.pin()
    assert store.labels() is None
    put(store, made)
    store.pin()
    assert store.labels() == Labels("1")
    put(store, made, threshold=0.2)
    store.pin()
    assert store.labels() == Labels("1")


def test_a_full_disk_leaves_no_half_bundle(store: ModelStore, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        put(store, made)
    assert list(store.folder.iterdir()) == []


def test_labels_that_cannot_be_replaced_stay_as_they_were(
    store: ModelStore, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, made)
    store.pin()
    put(store, made, threshold=0.2)

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match=r"labels\.json: cannot be written: No space left on device"):
        store.write_labels(Labels("2"))
    assert store.labels() == Labels("1")
    assert sorted(path.name for path in store.folder.iterdir()) == ["1", "2", "labels.json"]


def test_two_writers_do_not_meet(store: ModelStore) -> None:
    with (
        store.locked(),
        pytest.raises(UnavailableError, match="another command is changing it"),
        ModelStore(store.folder.parent, "volatility").locked(),
    ):
        pass
    with store.locked():
        pass


def test_a_lock_leaves_no_file(store: ModelStore) -> None:
    with store.locked():
        assert (store.folder / LOCK_FILE).exists()
    assert not store.folder.parent.exists()
    store.folder.mkdir(parents=True)
    with store.locked():
        (store.folder / "notes").write_text("kept")
    assert [path.name for path in store.folder.iterdir()] == ["notes"]


def test_a_folder_that_was_empty_before_stays(store: ModelStore) -> None:
    store.folder.mkdir(parents=True)
    with store.locked():
        pass
    assert store.folder.is_dir()


def test_a_lock_file_that_its_holder_removed_is_not_locked(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer opens the file, its holder removes it and ends, and a third writer makes and locks the file anew."""
    holder = store.locked()
    holder.__enter__()
    lock = fcntl.flock
    locks: list[int] = []

    def end_the_holder_first(descriptor: int, operation: int) -> None:
        if not locks:
            holder.__exit__(None, None, None)
        locks.append(descriptor)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", end_the_holder_first)
    with store.locked():
        assert len(locks) == 2
        with pytest.raises(UnavailableError), store.locked():
            pass


def test_a_version_that_is_not_there_is_named_beside_those_that_are(store: ModelStore, made: Made) -> None:
    put(store, made)
    with pytest.raises(UsageError, match=r"no version '4' in .*; there: 1"):
        store.path("4")


@pytest.mark.parametrize("text", ["{", '{"stable": 1}', '{"stable": "1", "colour": "red"}'])
def test_labels_that_are_wrong_are_told(store: ModelStore, text: str) -> None:
    store.folder.mkdir(parents=True)
    (store.folder / "labels.json").write_text(text)
    with pytest.raises(InputError, match=r"labels\.json"):
        store.labels()


def test_names_are_the_folders_of_the_models_folder(tmp_path: Path) -> None:
    for name in ("volatility", "volatility-full", ".staged"):
        (tmp_path / name).mkdir()
    assert model_names(tmp_path) == ["volatility", "volatility-full"]
    assert model_names(tmp_path / "absent") == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="Not a directory"):
        model_names(tmp_path / "file")
