from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.errors import InputError, ModelNotFoundError
from common.labels import LABELS_FILE, Labels
from common.model_store import ModelStore
from server.core.models import Repository
from server.core.requests import Selection
from tests.server.bundles import other_schema, write_bundle

KEYS = [f"client-{number}" for number in range(300)]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for version in ("1", "2", "3", "4"):
        write_bundle(tmp_path, version=version, seed=int(version))
    return tmp_path


def put(models: Path, labels: object, name: str = "volatility") -> None:
    text = labels if isinstance(labels, bytes) else msgspec.json.encode(labels)
    (models / name / LABELS_FILE).write_bytes(text)


def loaded(models: Path) -> Repository:
    repository = Repository("volatility")
    repository.load(models)
    return repository


def versions(repository: Repository) -> dict[str, list[str]]:
    snapshot = repository.snapshot
    return {model.version: snapshot.labels(model) for model in snapshot.models.values() if snapshot.labels(model)}


FULL = {"stable": "2", "canary": {"version": "3", "share": 0.25}, "shadow": ["4", "1"]}


def test_labels_are_where_the_file_puts_them(models: Path) -> None:
    put(models, FULL)
    repository = loaded(models)
    assert repository.snapshot.failures == ()
    assert versions(repository) == {"2": ["stable"], "3": ["canary"], "4": ["shadow"], "1": ["shadow"]}
    assert [model.version for model in repository.snapshot.shadows["volatility"]] == ["4", "1"]
    assert repository.resolve(Selection()).version == "2"
    assert repository.resolve(Selection(label="canary")).version == "3"


def test_only_callers_who_select_nothing_and_name_a_key_are_split(models: Path) -> None:
    put(models, FULL)
    repository = loaded(models)
    canary = [key for key in KEYS if repository.resolve(Selection(), key).version == "3"]
    assert 40 < len(canary) < 110
    assert {repository.resolve(Selection(), key).version for key in KEYS} == {"2", "3"}
    key = canary[0]
    assert repository.resolve(Selection(name="volatility"), key).version == "3"
    assert repository.resolve(Selection(), "").version == "2"
    assert repository.resolve(Selection(label="stable"), key).version == "2"
    assert repository.resolve(Selection(version="1"), key).version == "1"
    other = next(key for key in KEYS if key not in canary)
    assert repository.resolve(Selection(label="canary"), other).version == "3"


def test_a_key_does_not_matter_where_the_model_has_no_canary(models: Path) -> None:
    write_bundle(models, "jumps", "7")
    put(models, {"stable": "2", "canary": {"version": "3", "share": 1}})
    repository = loaded(models)
    assert repository.resolve(Selection(name="jumps"), "client").version == "7"
    assert repository.resolve(Selection(), "client").version == "3"
    assert repository.resolve(Selection(), "").version == "2"
    with pytest.raises(ModelNotFoundError, match="no model 'moon'"):
        repository.resolve(Selection(name="moon"), "client")


def test_a_higher_version_changes_nothing_while_the_file_says_otherwise(models: Path) -> None:
    put(models, {"stable": "2"})
    repository = loaded(models)
    write_bundle(models, version="9")
    repository.load(models)
    assert repository.resolve(Selection()).version == "2"
    (models / "volatility" / LABELS_FILE).unlink()
    repository.load(models)
    assert repository.resolve(Selection()).version == "9"


REFUSED: list[tuple[Any, str]] = [
    (b"{", "labels.json: Input data was truncated"),
    (b"\xff", "labels.json: "),
    (b"[" * 5000, "labels.json: "),
    (b" " * 70_000, "labels.json: expected at most 65536 bytes"),
    ({}, "missing required field `stable`"),
    ({"stable": ""}, "length >= 1"),
    ({"stable": 2}, "Expected `str`"),
    ({"stable": "3", "canry": {}}, "unknown field `canry`"),
    ({"stable": "3", "canary": {"version": "4"}}, "missing required field `share`"),
    ({"stable": "3", "canary": {"version": "4", "share": 0.1, "key": 1}}, "unknown field `key`"),
    ({"stable": "3", "canary": {"version": "4", "share": 1.01}}, "<= 1.0"),
    ({"stable": "3", "canary": {"version": "4", "share": -0.01}}, ">= 0.0"),
    ({"stable": "3", "canary": {"version": "3", "share": 0.5}}, "version '3' has more than one label"),
    ({"stable": "3", "shadow": ["3"]}, "version '3' has more than one label"),
    ({"stable": "3", "shadow": ["4", "4"]}, "version '4' has more than one label"),
    ({"stable": "7"}, "stable: version '7' is not loaded; loaded: 1, 2, 3, 4"),
    ({"stable": "3", "canary": {"version": "7", "share": 0.5}}, "canary: version '7' is not loaded"),
    ({"stable": "3", "shadow": ["7"]}, "shadow: version '7' is not loaded"),
    ({"stable": "../jumps/1"}, "stable: version '../jumps/1' is not loaded"),
    ({"stable": "/etc"}, "stable: version '/etc' is not loaded"),
]


@pytest.mark.parametrize(("labels", "reason"), REFUSED)
def test_a_file_with_a_fault_is_refused_as_a_whole_and_the_labels_before_stay(
    models: Path, labels: object, reason: str
) -> None:
    put(models, FULL)
    repository = loaded(models)
    write_bundle(models, version="9")
    put(models, labels)
    changes = repository.reload(models)
    assert versions(repository) == {"2": ["stable"], "3": ["canary"], "4": ["shadow"], "1": ["shadow"]}
    assert repository.snapshot.canaries["volatility"].split.share == 0.25
    (failure,) = changes.refused
    assert (failure.name, failure.version) == ("volatility", "")
    assert reason in failure.reason
    assert repository.load_failures == 1


@pytest.mark.parametrize("labels", [{"stable": "3", "shadow": ["3"]}, {"stable": "3", "shadow": ["4", "4"]}])
def test_a_version_with_two_labels_is_refused_by_the_server_and_by_the_commands(models: Path, labels: Any) -> None:
    put(models, labels)
    (failure,) = loaded(models).snapshot.failures
    assert "has more than one label" in failure.reason
    store = ModelStore(models, "volatility")
    with pytest.raises(InputError, match=r"labels\.json: version '[34]' has more than one label"):
        store.effective_labels()
    with pytest.raises(InputError, match="has more than one label"):
        store.write_labels(msgspec.convert(labels, Labels))


def test_without_labels_before_stable_stays_the_version_it_was(models: Path) -> None:
    """Not the highest: a file was written so that something else than that should happen."""
    repository = loaded(models)
    write_bundle(models, version="9")
    put(models, b"{")
    repository.load(models)
    assert repository.resolve(Selection()).version == "4"


def test_a_refused_file_counts_once_for_as_long_as_it_stands(models: Path) -> None:
    put(models, b"{")
    repository = loaded(models)
    repository.load(models)
    assert repository.load_failures == 1
    put(models, b"}")
    repository.load(models)
    assert repository.load_failures == 2


def test_at_the_start_stable_is_served_though_a_canary_is_missing(models: Path) -> None:
    put(models, {"stable": "2", "canary": {"version": "7", "share": 0.5}, "shadow": ["1"]})
    assert versions(loaded(models)) == {"2": ["stable"]}


@pytest.mark.parametrize("labels", [b"{", {"stable": "7"}])
def test_at_the_start_nothing_is_served_as_stable_that_nobody_chose(models: Path, labels: object) -> None:
    put(models, labels)
    repository = loaded(models)
    with pytest.raises(ModelNotFoundError, match="has no label 'stable'; assigned: none"):
        repository.resolve(Selection())
    assert repository.resolve(Selection(version="4")).version == "4"


@pytest.mark.parametrize("labels", [{"canary": {"version": "9", "share": 0.5}}, {"shadow": ["9"]}])
def test_versions_that_take_other_features_cannot_share_the_callers(models: Path, labels: dict[str, Any]) -> None:
    write_bundle(models, version="9", change=other_schema)
    put(models, {"stable": "2", **labels})
    (failure,) = loaded(models).snapshot.failures
    assert f"{next(iter(labels))}: version 9 takes schema " in failure.reason


def test_labels_that_are_a_link_out_of_the_folder_are_refused(models: Path, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("outside") / "labels.json"
    outside.write_bytes(msgspec.json.encode({"stable": "1"}))
    (models / "volatility" / LABELS_FILE).symlink_to(outside)
    repository = loaded(models)
    assert "labels.json is a link that leads outside its folder" in repository.snapshot.failures[0].reason
    assert versions(repository) == {}


def test_a_changed_share_is_a_change_of_labels(models: Path) -> None:
    put(models, FULL)
    repository = loaded(models)
    put(models, {**FULL, "canary": {"version": "3", "share": 0.5}})
    changes = repository.reload(models)
    assert (changes.loaded, changes.retired, changes.relabelled) == ((), (), ("volatility",))
    assert repository.snapshot.canaries["volatility"].split.share == 0.5
    assert repository.swaps == 2
    assert not repository.reload(models).swapped
    assert repository.swaps == 2
