from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.testing import assert_allclose

from common.bundle import MANIFEST_FILE, MODEL_FILE, Manifest
from common.errors import BundleError, InputError, ModelNotFoundError
from server.core.bundles import load_model
from server.core.models import Repository
from server.core.requests import Selection
from tests.server.bundles import EXAMPLE, Logistic, rows, write_bundle

SHIPPED = Path(__file__).resolve().parents[2] / "models"


def loaded(models: Path) -> Repository:
    repository = Repository("volatility")
    repository.load(models)
    return repository


def test_every_bundle_below_the_folder_is_held(tmp_path: Path) -> None:
    for name, version in (("volatility", "1"), ("volatility", "2"), ("jumps", "1")):
        write_bundle(tmp_path, name, version)
    (tmp_path / "README.md").write_text("not a model")
    (tmp_path / ".hidden" / "1").mkdir(parents=True)
    (tmp_path / "volatility" / ".partial").mkdir()
    snapshot = loaded(tmp_path).snapshot
    assert sorted(snapshot.models) == [("jumps", "1"), ("volatility", "1"), ("volatility", "2")]
    assert snapshot.failures == ()


def test_a_held_model_predicts_as_its_bundle_promises(tmp_path: Path) -> None:
    write_bundle(tmp_path, seed=5, threshold=0.25)
    model = loaded(tmp_path).resolve(Selection())
    assert (model.name, model.version, model.threshold) == ("volatility", "1", 0.25)
    assert_allclose(model.predictor.predict(rows(4)), Logistic(5).predict(rows(4)), rtol=0, atol=1e-12)


def test_stable_is_the_highest_number_and_not_the_last_in_the_alphabet(tmp_path: Path) -> None:
    for version in ("9", "10", "2", "experiment"):
        write_bundle(tmp_path, version=version)
    repository = loaded(tmp_path)
    assert repository.resolve(Selection()).version == "10"
    assert repository.resolve(Selection(label="stable")).version == "10"
    assert repository.snapshot.labels(repository.resolve(Selection(version="10"))) == ["stable"]
    assert repository.snapshot.labels(repository.resolve(Selection(version="9"))) == []


@pytest.mark.parametrize(
    "versions", [("v9", "v10", "v11"), ("1.9.0", "1.10.0"), ("1.0.0-rc.1", "1.0.0"), ("2026-09-30", "2026-11-27")]
)
def test_stable_is_the_newest_in_natural_order(tmp_path: Path, versions: tuple[str, ...]) -> None:
    for version in versions:
        write_bundle(tmp_path, version=version)
    assert loaded(tmp_path).resolve(Selection()).version == versions[-1]


HASHES = ("3f2e9c1", "a81bd02")


def test_without_an_order_the_first_load_chooses_none_and_gives_the_reason(tmp_path: Path) -> None:
    for version in HASHES:
        write_bundle(tmp_path, version=version)
    repository = loaded(tmp_path)
    (failure,) = repository.snapshot.failures
    reason = "no labels.json, and the order of the versions 3f2e9c1, a81bd02 is not known"
    assert (failure.name, failure.version) == ("volatility", "")
    assert failure.reason.startswith(reason)
    with pytest.raises(ModelNotFoundError, match=f"has no label 'stable'; assigned: none \\({reason}"):
        repository.resolve(Selection())
    assert repository.resolve(Selection(version="a81bd02")).version == "a81bd02"


def test_a_label_decides_where_the_names_have_no_order(tmp_path: Path) -> None:
    for version in HASHES:
        write_bundle(tmp_path, version=version)
    (tmp_path / "volatility" / "labels.json").write_text('{"stable": "3f2e9c1"}')
    repository = loaded(tmp_path)
    assert repository.snapshot.failures == ()
    assert repository.resolve(Selection()).version == "3f2e9c1"


@pytest.mark.parametrize("deleted", [False, True])
def test_a_reload_keeps_the_stable_version_where_the_names_have_no_order(tmp_path: Path, deleted: bool) -> None:
    folder = write_bundle(tmp_path, version="a81bd02")
    repository = loaded(tmp_path)
    assert repository.resolve(Selection()).version == "a81bd02"
    for version in ("3f2e9c1", "ffffff0"):
        write_bundle(tmp_path, version=version)
    if deleted:
        shutil.rmtree(folder)
    result = repository.reload(tmp_path)
    assert repository.resolve(Selection()).version == "a81bd02"
    assert result.relabelled == ()
    assert "; version a81bd02 stays stable" in result.snapshot.failures[0 if not deleted else -2].reason


@pytest.mark.parametrize(
    ("selection", "field", "text"),
    [
        (Selection(name="moon"), "model.name", "no model 'moon'; loaded: volatility"),
        (Selection(version="7"), "model.version", "model 'volatility' has no version '7'; loaded: 9, 10"),
        (Selection(label="canary"), "model.label", "model 'volatility' has no label 'canary'; assigned: stable"),
    ],
)
def test_what_is_not_held_is_named(tmp_path: Path, selection: Selection, field: str, text: str) -> None:
    for version in ("9", "10"):
        write_bundle(tmp_path, version=version)
    with pytest.raises(ModelNotFoundError) as raised:
        loaded(tmp_path).resolve(selection)
    (violation,) = raised.value.violations
    assert (violation.field, violation.description) == (field, text)


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _flip_a_byte(folder: Path) -> None:
    path = folder / MODEL_FILE
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut_manifest(folder: Path) -> None:
    path = folder / MANIFEST_FILE
    path.write_bytes(path.read_bytes()[:-20])


def _move(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "3")
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_without(MODEL_FILE), "model.onnx cannot be read: No such file"),
        (_without(MANIFEST_FILE), "manifest.json cannot be read: No such file"),
        (_flip_a_byte, "model.onnx is damaged: SHA-256"),
        (_cut_manifest, "manifest.json: Input data was truncated"),
        (_move, "the manifest has volatility/2, the folder volatility/3"),
    ],
)
def test_a_damaged_bundle_is_reported_and_the_others_serve(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    write_bundle(tmp_path)
    damage(write_bundle(tmp_path, version="2"))
    repository = loaded(tmp_path)
    assert repository.resolve(Selection()).version == "1"
    (failure,) = repository.snapshot.failures
    assert reason in failure.reason
    assert repository.load_failures == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda manifest: msgspec.structs.replace(manifest, format=99), "format: expected 1, got 99"),
        (
            lambda manifest: msgspec.structs.replace(
                manifest, schema=msgspec.structs.replace(manifest.schema, hash="beef")
            ),
            "schema.hash: expected",
        ),
        (
            lambda manifest: msgspec.structs.replace(
                manifest, self_test=msgspec.structs.replace(manifest.self_test, features=(1.0,))
            ),
            "self_test.features: expected 11 values, got 1",
        ),
        (
            lambda manifest: msgspec.structs.replace(
                manifest, self_test=msgspec.structs.replace(manifest.self_test, probability=0.123)
            ),
            "self-test: expected probability 0.123, got 0.",
        ),
    ],
)
def test_a_manifest_that_does_not_fit_its_model_is_refused(
    tmp_path: Path, change: Callable[[Manifest], Manifest], reason: str
) -> None:
    folder = write_bundle(tmp_path, change=change)
    with pytest.raises(BundleError, match=reason):
        load_model(folder, "volatility", "1")


def test_a_graph_of_another_width_is_refused_with_the_bundles_path(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, graph=Logistic(1).graph(width=12))
    with pytest.raises(BundleError, match="volatility/1: input features: expected"):
        load_model(folder, "volatility", "1")


def test_a_version_damaged_later_stays_as_it_was_loaded(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    repository = loaded(tmp_path)
    before = repository.resolve(Selection())
    _flip_a_byte(folder)
    repository.load(tmp_path)
    assert repository.resolve(Selection()) is before
    assert "is damaged" in repository.snapshot.failures[0].reason


@pytest.mark.parametrize("damage", [_flip_a_byte, lambda folder: _lead_out(folder)])
def test_a_version_damaged_later_stays_though_others_are_held(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    models = tmp_path / "models"
    write_bundle(models)
    folder = write_bundle(models, version="2")
    repository = loaded(models)
    before = repository.resolve(Selection())
    damage(folder)
    assert not repository.reload(models).swapped
    assert repository.resolve(Selection()) is before
    assert [failure.version for failure in repository.snapshot.failures] == ["2"]


def _lead_out(folder: Path) -> None:
    outside = folder.parents[2] / "outside"
    shutil.move(folder, outside)
    folder.symlink_to(outside)


def test_a_load_does_not_disturb_whoever_works_on_what_was_held(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    repository = loaded(tmp_path)
    snapshot = repository.snapshot
    write_bundle(tmp_path, version="2", seed=2)
    repository.load(tmp_path)
    assert list(snapshot.models) == [("volatility", "1")]
    assert repository.resolve(Selection()).version == "2"


def test_a_models_folder_that_is_missing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"models folder .*: No such file or directory"):
        loaded(tmp_path / "none")


def test_the_shipped_bundle_passes_its_own_self_test() -> None:
    repository = loaded(SHIPPED)
    assert repository.snapshot.failures == ()
    probability = repository.resolve(Selection()).predictor.predict(np.array([EXAMPLE]))
    assert 0 <= probability[0] <= 1


def test_what_did_not_change_is_kept_and_not_loaded_again(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    repository = loaded(tmp_path)
    first = repository.resolve(Selection())
    write_bundle(tmp_path, version="2", seed=2)
    changes = repository.reload(tmp_path)
    assert repository.resolve(Selection(version="1")) is first
    assert [model.version for model in changes.loaded] == ["2"]
    assert not repository.reload(tmp_path).loaded


def test_a_version_of_other_bytes_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    shutil.rmtree(write_bundle(tmp_path, seed=1))
    write_bundle(tmp_path, seed=1)
    repository = loaded(tmp_path)
    before = repository.resolve(Selection())
    shutil.rmtree(tmp_path / "volatility" / "1")
    write_bundle(tmp_path, seed=2)
    changes = repository.reload(tmp_path)
    assert changes.loaded == (repository.resolve(Selection()),)
    assert_allclose(repository.resolve(Selection()).predictor.predict(rows(3)), Logistic(2).predict(rows(3)))
    assert_allclose(before.predictor.predict(rows(3)), Logistic(1).predict(rows(3)))


def test_a_manifest_alone_makes_a_version_another(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, threshold=0.5)
    repository = loaded(tmp_path)
    shutil.rmtree(folder)
    write_bundle(tmp_path, threshold=0.75)
    repository.load(tmp_path)
    assert repository.resolve(Selection()).threshold == 0.75


def test_a_version_whose_folder_is_gone_is_retired(tmp_path: Path) -> None:
    for version in ("1", "2"):
        write_bundle(tmp_path, version=version)
    write_bundle(tmp_path, "jumps")
    repository = loaded(tmp_path)
    shutil.rmtree(tmp_path / "volatility" / "2")
    shutil.rmtree(tmp_path / "jumps")
    changes = repository.reload(tmp_path)
    assert sorted((model.name, model.version) for model in changes.retired) == [("jumps", "1"), ("volatility", "2")]
    assert list(repository.snapshot.models) == [("volatility", "1")]
    assert repository.resolve(Selection()).version == "1"
    assert repository.snapshot.failures == ()


@pytest.mark.parametrize("gone", ["volatility/1", "volatility"])
def test_the_only_version_of_the_default_model_outlives_its_folder(tmp_path: Path, gone: str) -> None:
    write_bundle(tmp_path)
    repository = loaded(tmp_path)
    before = repository.resolve(Selection())
    shutil.rmtree(tmp_path / gone)
    changes = repository.reload(tmp_path)
    assert repository.resolve(Selection()) is before
    assert not changes.swapped
    (failure,) = repository.snapshot.failures
    assert (failure.version, failure.reason) == ("1", "its folder is gone; the version is kept, as it is in use")
    write_bundle(tmp_path, version="2")
    repository.load(tmp_path)
    assert list(repository.snapshot.models) == [("volatility", "2")]
    assert repository.snapshot.failures == ()


def test_a_version_that_a_label_names_outlives_its_folder(tmp_path: Path) -> None:
    for version in ("1", "2", "3"):
        write_bundle(tmp_path, version=version)
    labels = tmp_path / "volatility" / "labels.json"
    labels.write_text('{"stable": "1", "canary": {"version": "2", "share": 0.5}}')
    repository = loaded(tmp_path)
    for version in ("2", "3"):
        shutil.rmtree(tmp_path / "volatility" / version)
    repository.load(tmp_path)
    assert sorted(version for _, version in repository.snapshot.models) == ["1", "2"]
    assert repository.resolve(Selection(label="canary")).version == "2"
    assert [failure.version for failure in repository.snapshot.failures] == ["2"]
    labels.write_text('{"stable": "1"}')
    repository.load(tmp_path)
    assert sorted(version for _, version in repository.snapshot.models) == ["1"]
    assert repository.snapshot.failures == ()


def test_a_models_folder_that_is_away_changes_nothing(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_bundle(models)
    repository = loaded(models)
    before = repository.snapshot
    models.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError):
        repository.reload(models)
    assert repository.snapshot is before


def test_a_name_that_cannot_be_listed_any_more_keeps_its_versions_and_labels(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_bundle(models)
    for version in ("1", "2"):
        write_bundle(models, "jumps", version)
    (models / "jumps" / "labels.json").write_text('{"stable": "1"}')
    repository = loaded(models)
    (models / "jumps").rename(tmp_path / "jumps")
    (models / "jumps").symlink_to(tmp_path / "jumps")
    changes = repository.reload(models)
    assert not changes.swapped
    assert repository.resolve(Selection(name="jumps")).version == "1"
    assert [(failure.name, failure.version) for failure in changes.refused] == [("jumps", "")]


def test_a_bundle_half_written_is_refused_and_taken_when_it_is_whole(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    repository = loaded(tmp_path)
    folder = write_bundle(tmp_path, version="2")
    whole = {name: (folder / name).read_bytes() for name in (MODEL_FILE, MANIFEST_FILE)}
    (folder / MANIFEST_FILE).unlink()
    (folder / MODEL_FILE).write_bytes(whole[MODEL_FILE][:100])
    repository.load(tmp_path)
    assert "manifest.json cannot be read" in repository.snapshot.failures[0].reason
    (folder / MANIFEST_FILE).write_bytes(whole[MANIFEST_FILE])
    repository.load(tmp_path)
    assert "is damaged" in repository.snapshot.failures[0].reason
    assert repository.resolve(Selection()).version == "1"
    (folder / MODEL_FILE).write_bytes(whole[MODEL_FILE])
    repository.load(tmp_path)
    assert repository.snapshot.failures == ()
    assert repository.resolve(Selection()).version == "2"
    assert repository.load_failures == 2


def test_the_last_good_load_is_one_that_refused_nothing(tmp_path: Path) -> None:
    clock = iter([10.0, 20.0])
    repository = Repository("volatility", lambda: next(clock))
    folder = write_bundle(tmp_path)
    repository.load(tmp_path)
    assert repository.last_good_load_s == 10.0
    _flip_a_byte(folder)
    repository.load(tmp_path)
    assert repository.last_good_load_s == 10.0
    shutil.rmtree(folder)
    write_bundle(tmp_path)
    repository.load(tmp_path)
    assert repository.last_good_load_s == 20.0
