"""The edge to MLflow: run folders go up, and the registry's aliases move.

An upload is a list of steps, each of which may be done twice without harm, and the folder remembers which are
done. So a server that goes away half-way costs the rest of one step: the next upload goes on from there.
MLflow takes seconds to import, so that is put off until something has to be said to it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from common.bundle import MODEL_FILE, read_bundle
from common.config import TrackingConfig
from common.errors import InputError, UnavailableError, UsageError
from common.proxies import reached_through_proxy
from training.shipping.tracking.record import (
    BUNDLE,
    EVIDENCE,
    PLOTS,
    RUN_FILE,
    TRAINED,
    Run,
    Upload,
    read_run,
    read_upload,
    runs,
    write_upload,
)

if TYPE_CHECKING:
    from common.model_store import Role

URI_VARIABLE = "MLFLOW_TRACKING_URI"
RUN_TAG, MODEL_TAG = "volcast.run", "volcast.model_sha256"
FINISHED = "finished"
SQLITE = "sqlite:///"
# The tag by which MLflow's pages tell training from chats with language models.
KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"
# What is there where nobody chose one: nothing, or the guess of a page that was opened.
GUESSED = (None, "", "no_inferred_type", "genai_development_inferred", "custom_model_development_inferred")
MAX_BATCH = 100  # of parameters and tags in one request; MLflow's limit
CONNECT_S = 3.0


def tracking_uri(config: TrackingConfig) -> str:
    return os.environ.get(URI_VARIABLE) or config.uri


def waiting(runs_dir: Path, uri: str) -> list[Path]:
    """Runs that are not yet whole on that server, oldest first."""
    return [folder for folder, _ in runs(runs_dir) if not read_upload(folder, uri).has(FINISHED)]


class MlflowServer:
    """An MLflow tracking server and registry; promotion's Registry.

    Every method raises UnavailableError, with the server's reason, where it is away or refuses.
    """

    def __init__(self, config: TrackingConfig) -> None:
        self.uri = tracking_uri(config)
        self._config = config
        self._opened: Any = None

    @property
    def exists(self) -> bool:
        """False if the URI names an SQLite file that does not exist yet. Imports no MLflow."""
        return not self.uri.startswith(SQLITE) or os.path.exists(self.uri.removeprefix(SQLITE))

    def upload(self, folder: Path) -> str:
        """Uploads a run, or the rest of an interrupted upload; returns the registry's version of its model."""
        run, upload = read_run(folder), read_upload(folder, self.uri)
        if upload.has(FINISHED):
            return upload.version
        with self._asking(f"run {run.id} is kept in {folder}; `volcast models sync` brings the rest"):
            _Upload(self._client(), self._experiment(), folder, run, upload).go()
        return upload.version

    def point(self, name: str, alias: Role, version: str | None) -> None:
        with self._asking(f"alias {alias} of {name} was not moved; `volcast models sync` does it"):
            client = self._client()
            if version is not None:
                client.set_registered_model_alias(name, alias, version)
            elif alias in client.get_registered_model(name).aliases:
                client.delete_registered_model_alias(name, alias)

    def registered(self, name: str, run: str) -> str | None:
        with self._asking(f"model {name} cannot be looked up"):
            found = self._client().search_model_versions(f"name = '{name}' and tag.`{RUN_TAG}` = '{run}'")
            return str(found[0].version) if found else None

    def note(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        with self._asking(f"model {name} cannot be tagged"):
            for key, value in tags.items():
                self._client().set_model_version_tag(name, version, key, value)

    def noted(self, name: str, alias: Role, tag: str) -> str | None:
        version = self.aliases(name).get(alias)
        if version is None:
            return None
        with self._asking(f"alias {alias} of {name} cannot be looked up"):
            found: str | None = self._client().get_model_version(name, version).tags.get(tag)
            return found

    def aliases(self, name: str) -> dict[str, str]:
        """Alias -> the registry's version; none where the registry does not know the model."""
        with self._asking(f"model {name} cannot be looked up"):
            known = self._client().search_registered_models(f"name = '{name}'")
            return {alias: str(version) for one in known for alias, version in one.aliases.items()}

    def fetch(self, run: str, runs_dir: Path) -> Path:
        """Brings a run from there, by MLflow's id or ours; returns its folder."""
        with self._asking(f"run {run} cannot be fetched"):
            client = self._client()
            experiment = self._experiment()
            wanted = (f"tags.`{RUN_TAG}` = '{run}'", f"attributes.run_id = '{run}'")
            found = [one for text in wanted for one in client.search_runs([experiment], text)]
            if not found:
                raise UsageError(f"no run {run!r} at {self.uri}")
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=_made(runs_dir)) as making:
                client.download_artifacts(found[0].info.run_id, "", making)
                known = read_run(Path(making))
                target = runs_dir / known.id
                if not target.exists():
                    whole = runs_dir / f".{known.id}.fetched-{os.getpid()}"
                    shutil.copytree(making, whole)
                    whole.rename(target)
            return target

    def _client(self) -> Any:
        if self._opened is None:
            _require_listening(self.uri)
            self._opened = _open(self.uri, self._config)
        return self._opened

    def _experiment(self) -> str:
        client = self._client()
        known = client.get_experiment_by_name(self._config.experiment)
        if known is not None:
            if known.tags.get(KIND_TAG) in GUESSED:
                client.set_experiment_tag(known.experiment_id, KIND_TAG, KIND)
            return str(known.experiment_id)
        location = None
        if self.uri.startswith("sqlite"):
            location = _made(Path(self._config.artifacts_dir)).resolve().as_uri()
        return str(client.create_experiment(self._config.experiment, artifact_location=location, tags={KIND_TAG: KIND}))

    @contextlib.contextmanager
    def _asking(self, otherwise: str) -> Iterator[None]:
        """Turns whatever MLflow and the libraries below it raise into one line."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of their own innards
                yield
        except (UsageError, InputError):
            raise
        except UnavailableError as error:
            raise UnavailableError(f"{error}; {otherwise}") from None
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UnavailableError(f"tracking server {self.uri} fails: {reason}; {otherwise}") from None


class _Upload:
    """One run on its way: steps that may be repeated, each remembered once it is done."""

    def __init__(self, client: Any, experiment: str, folder: Path, run: Run, upload: Upload) -> None:
        self._client = client
        self._experiment = experiment
        self._folder = folder
        self._run = run
        self._upload = upload

    def go(self) -> None:
        self._step("run", self._create)
        self._step("parameters", self._parameters)
        self._step("metrics", self._metrics)
        self._step("data", self._data)
        for name in (RUN_FILE, BUNDLE, TRAINED, EVIDENCE, PLOTS):
            if (self._folder / name).exists():
                self._step(f"artifact {name}", lambda name=name: self._artifact(name))
        self._step("model", self._model)
        self._step("version", self._version)
        self._step(FINISHED, self._finish)

    def _step(self, name: str, do: Any) -> None:
        if not self._upload.has(name):
            do()
            self._upload.done.append(name)
            write_upload(self._folder, self._upload)

    def _create(self) -> None:
        # An answer may have been lost: the run is there already then.
        found = self._client.search_runs([self._experiment], f"tags.`{RUN_TAG}` = '{self._run.id}'")
        if found:
            self._upload.run_id = found[0].info.run_id
            return
        tags = {
            RUN_TAG: self._run.id,
            MODEL_TAG: self._run.model_sha256,
            "volcast.code": self._run.code,
            "volcast.data_sha256": self._run.data_sha256,
            "mlflow.source.name": "volcast train",
            "mlflow.source.type": "LOCAL",
        }
        created = self._client.create_run(
            self._experiment, start_time=self._run.started_ms, tags=tags, run_name=self._run.id
        )
        self._upload.run_id = created.info.run_id

    def _parameters(self) -> None:
        from mlflow.entities import Param

        told = {**self._run.parameters, "code": self._run.code, "data_sha256": self._run.data_sha256}
        told["data_files"] = str(len(self._run.data))
        params = [Param(name, value[:6000]) for name, value in told.items()]
        for batch in _batches(params):
            self._client.log_batch(self._upload.run_id, params=batch)

    def _metrics(self) -> None:
        from mlflow.entities import Metric

        at = self._run.ended_ms
        single = [Metric(name, value, at, 0) for name, value in self._run.metrics.items()]
        by_fold = [
            Metric(name, value, at, step)
            for name, values in self._run.fold_metrics.items()
            for step, value in enumerate(values, 1)
            if value is not None
        ]
        for batch in _batches([*single, *by_fold]):
            self._client.log_batch(self._upload.run_id, metrics=batch)

    def _data(self) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if self._client.get_run(self._upload.run_id).inputs.dataset_inputs:
            return
        schema = msgspec.json.encode({"schema": self._run.schema, "hash": self._run.schema_hash}).decode()
        data = Dataset(
            name=self._run.schema,
            digest=self._run.data_sha256[:36],
            source_type="local",
            source=msgspec.json.encode({"files": self._run.data}).decode(),
            schema=schema,
        )
        self._client.log_inputs(
            self._upload.run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])]
        )

    def _artifact(self, name: str) -> None:
        path = self._folder / name
        if path.is_dir():
            self._client.log_artifacts(self._upload.run_id, str(path), name)
        else:
            self._client.log_artifact(self._upload.run_id, str(path))

    def _model(self) -> None:
        from mlflow.entities import LoggedModelOutput

        found = self._client.search_logged_models([self._experiment], f"source_run_id = '{self._upload.run_id}'")
        ready = [one for one in found if str(one.status) == "READY"]
        self._upload.model_id = ready[0].model_id if ready else self._new_model()
        outputs = self._client.get_run(self._upload.run_id).outputs
        # Unlike parameters and metrics, what a run took and gave may not be said twice.
        if outputs is None or not outputs.model_outputs:
            self._client.log_outputs(self._upload.run_id, [LoggedModelOutput(self._upload.model_id, step=0)])

    def _new_model(self) -> str:
        created = self._client.create_logged_model(
            self._experiment,
            name=self._run.name,
            source_run_id=self._upload.run_id,
            tags={RUN_TAG: self._run.id, MODEL_TAG: self._run.model_sha256},
            model_type=self._run.kind,
        )
        with tempfile.TemporaryDirectory() as making:
            saved = Path(making) / "model"
            _save_onnx(saved, self._folder / BUNDLE, self._upload.run_id, created.model_id)
            self._client.log_model_artifacts(created.model_id, str(saved))
        self._client.finalize_logged_model(created.model_id, "READY")
        return str(created.model_id)

    def _version(self) -> None:
        name = self._run.name
        if not self._client.search_registered_models(f"name = '{name}'"):
            self._client.create_registered_model(name)
        found = self._client.search_model_versions(f"name = '{name}' and tag.`{RUN_TAG}` = '{self._run.id}'")
        if not found:
            model = self._client.get_logged_model(self._upload.model_id)
            found = [
                self._client.create_model_version(
                    name,
                    model.artifact_location,
                    run_id=self._upload.run_id,
                    tags={RUN_TAG: self._run.id, MODEL_TAG: self._run.model_sha256},
                    model_id=self._upload.model_id,
                    await_creation_for=0,
                )
            ]
        self._upload.version = str(found[0].version)

    def _finish(self) -> None:
        self._client.set_terminated(self._upload.run_id, "FINISHED", self._run.ended_ms)


def _save_onnx(path: Path, bundle: Path, run_id: str, model_id: str) -> None:
    """The model as MLflow's onnx flavour, which is a pyfunc too, with its signature."""
    import mlflow.onnx
    import numpy as np
    import onnx
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    manifest, model = read_bundle(bundle)
    columns = ({"features": len(manifest.schema.features)}, {"probability": 1})
    if manifest.forecast is not None:
        columns[0].update(spike_bps=1, levels=-1)
        columns[1].update(median_bps=1, quantile_bps=-1)
    inputs, outputs = (
        Schema([TensorSpec(np.dtype(np.float64), (-1, width), name) for name, width in each.items()])
        for each in columns
    )
    mlflow.onnx.save_model(
        onnx.load_model_from_string(model),
        str(path),
        mlflow_model=Model(run_id=run_id, model_id=model_id),
        signature=ModelSignature(inputs, outputs),
        pip_requirements=[f"{package}>={_version(package)}" for package in ("mlflow", "onnx", "onnxruntime")],
        onnx_execution_providers=["CPUExecutionProvider"],
        onnx_session_options={"intra_op_num_threads": 1},
        save_as_external_data=False,
        metadata={"volcast_manifest": f"{BUNDLE}/manifest.json", "volcast_schema": manifest.schema.hash},
    )
    # Byte for byte what the bundle holds, whatever ONNX's own writer made of it.
    (path / MODEL_FILE).write_bytes(model)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _open(uri: str, config: TrackingConfig) -> Any:
    """An MLflow client that gives up in time, sends nothing home and keeps its progress bars to itself."""
    settings = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, round(config.timeout_s))),
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if uri.startswith(SQLITE):
        _made(Path(uri.removeprefix(SQLITE)).parent)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _require_listening(uri: str) -> None:
    """Asks before MLflow is imported: a server that is away is told at once, and not after its own patience."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or reached_through_proxy(uri):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), CONNECT_S).close()
    except OSError as error:
        raise UnavailableError(f"tracking server {uri} is away: {error.strerror or error}") from None


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}") from None
    return folder


def _batches(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), MAX_BATCH):
        yield values[start : start + MAX_BATCH]
