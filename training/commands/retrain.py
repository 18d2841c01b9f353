"""`volcast retrain`: new archive to features to model to gate to shadow to champion, a step a call."""

from __future__ import annotations

import time
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from common.cli import Duration, config_option, examples, json_option
from common.config import Config, load_config
from common.errors import InputError, UnavailableError
from common.log import configure_logs
from common.model_store import ModelStore, Moved, Role
from common.proxies import open_url
from pipeline.archive import expand_paths
from pipeline.archive.options import flat_options, read_options
from training.commands.training_options import chosen_cluster, trained_name, training_options

if TYPE_CHECKING:
    from training.judging.gate import GateLimits
    from training.shipping.promotion import Judged
    from training.shipping.retraining import State, Step
    from training.shipping.tracking.mlflow_server import MlflowServer
    from training.shipping.training_run import TrainingRequest

GATE_FILE = "gate.json"
REFUSED = 3
METRICS_TIMEOUT_S = 5.0


@click.command(
    "retrain",
    epilog=examples(
        "volcast retrain                                   # what would be done; nothing that callers see changes",
        "volcast retrain --apply                           # the next step of the loop",
        "volcast retrain --apply --shadow-for 24h --server-metrics http://127.0.0.1:9101/metrics",
        "17 * * * *  cd /srv/volcast && volcast retrain --apply --json >> retrain.log    # cron",
    ),
)
@click.argument("files", nargs=-1, metavar="[FILE|DIR|GLOB]...")
@click.option("--apply", is_flag=True, help="Put what passes the gate before callers (default: a dry run).")
@flat_options
@training_options
@click.option(
    "--shadow-for", type=Duration("h"), default="24h", show_default=True, help="How long a candidate is watched."
)
@click.option("--straight", is_flag=True, help="Without a shadow: what passes the gate is champion at once.")
@click.option(
    "--server-metrics", metavar="URL", default=None, help="/metrics of the server: what it counted of the shadow."
)
@click.option(
    "--shadow-rows", type=click.IntRange(min=0), default=1000, show_default=True, help="Least rows it counted."
)
@click.option("--no-track", is_flag=True, help="Tell MLflow nothing.")
@json_option
@config_option
def retrain(
    files: tuple[str, ...],
    apply: bool,
    columns_text: str,
    product: str,
    model_type: str,
    schema_name: str,
    name: str | None,
    spike_bps: float | None,
    alert_level: float,
    folds: int,
    seed: int,
    cluster: str | None,
    no_cluster: bool,
    shadow_for: float,
    straight: bool,
    server_metrics: str | None,
    shadow_rows: int,
    no_track: bool,
    as_json: bool,
    config_file: Path | None,
) -> int:
    """Does the next step of the loop, and only that; the same call again goes on from there.

    \b
    new data                       train, judge, and make a candidate that scores as a shadow
    a shadow, not yet long enough  wait
    a shadow for long enough       judge again against the champion of today, and promote
    nothing new                    nothing

    Without FILEs it takes ingest.archive_dir. A dry run trains and judges as well, so that --apply need not train
    again; it changes neither the models folder nor MLflow.

    Exit codes: 0 done, or nothing to do; 1 failed; 2 wrong usage; 3 refused by the gate; 4 another retraining is
    under way.
    """
    config = load_config(config_file)
    configure_logs(config.log, "retrain")
    name = trained_name(name, schema_name)
    cluster = chosen_cluster(cluster, no_cluster)
    options = read_options(columns_text, product, config.ingest.gap_after_s)
    paths = _paths(files, config)
    # These imports take seconds: options and files are checked before them.
    from training.problem.recordings import Recording
    from training.shipping.retraining import only_one
    from training.shipping.training_run import TrainingRequest

    request = TrainingRequest(
        recordings=(Recording("recording", tuple(paths), options),),
        model_type=model_type,
        schema_name=schema_name,
        folds=folds,
        spike_bps=spike_bps or 0.0,
        alert_level=alert_level,
        seed=seed,
        cluster=cluster,
    )
    loop = _Loop(
        config=config,
        store=ModelStore(Path(config.server.models_dir), name),
        request=request,
        apply=apply,
        shadow_s=0.0 if straight else shadow_for,
        server_metrics=server_metrics,
        shadow_rows=shadow_rows,
        track=not no_track,
        archive="" if files else config.ingest.archive_dir,
    )
    with only_one(Path(config.tracking.runs_dir)):
        outcome = loop.go()
    return _print(outcome, as_json)


class Outcome(msgspec.Struct):
    """The step of a call, and its result."""

    step: str
    applied: bool
    text: str
    run: str = ""
    version: str = ""
    reasons: list[str] = []

    @property
    def exit_code(self) -> int:
        return REFUSED if self.reasons else 0


class Verdict(msgspec.Struct):
    """The gate's verdict on a run, stored in its folder: a refused run is not judged again for the same champion."""

    passed: bool
    champion: str
    reasons: list[str]


@dataclass(frozen=True, slots=True)
class _Loop:
    config: Config
    store: ModelStore
    request: TrainingRequest
    apply: bool
    shadow_s: float
    server_metrics: str | None
    shadow_rows: int
    track: bool
    archive: str  # ingest.archive_dir if no FILE was named

    @property
    def runs_dir(self) -> Path:
        return Path(self.config.tracking.runs_dir)

    @property
    def limits(self) -> GateLimits:
        from training.judging.gate import GateLimits

        gate = self.config.gate
        return GateLimits(champion_margin=gate.champion_margin, max_latency_us=gate.max_latency_us, seed=gate.seed)

    def go(self) -> Outcome:
        from training.shipping.retraining import Step, next_step

        state = self._state()
        step = next_step(state, self.shadow_s)
        match step:
            case Step.WAIT:
                left_h = (self.shadow_s - state.candidate_age_s) / 3600
                text = f"version {state.candidate} is a shadow, for another {left_h:.1f} h"
                return Outcome(step, False, text, version=state.candidate)
            case Step.NOTHING:
                return self._nothing(state)
            case Step.PROMOTE:
                return self._promote(state)
            case _:
                return self._candidate(state, step)

    def _nothing(self, state: State) -> Outcome:
        assert state.run is not None
        result = f"version {state.version}" if state.version else "refused by the gate"
        text = f"no new data since run {state.run.id} ({result})"
        return Outcome("nothing", False, text, state.run.id, state.version)

    def _candidate(self, state: State, step: Step) -> Outcome:
        from training.shipping import promotion

        folder = self._train(state.key) if state.run is None else self.runs_dir / state.run.id
        judged = promotion.judge(folder, self.store, self.limits)
        self._write_verdict(judged)
        if not judged.passed:
            return _refused(step, judged)
        role: Role = "candidate" if self.shadow_s > 0 and state.stable else "champion"
        if not self.apply:
            return Outcome(step, False, f"passes the gate; --apply makes it the {role}", judged.run.id)
        moved = self._move(judged, role)
        return Outcome(step, True, _moved_text(moved), judged.run.id, moved.version)

    def _promote(self, state: State) -> Outcome:
        from training.shipping import promotion
        from training.shipping.aliases import run_of_bundle

        folder = run_of_bundle(self.store.path(state.candidate), self.runs_dir)
        if folder is None:
            raise InputError(f"version {state.candidate}: no run in {self.runs_dir} made it, so it cannot be judged")
        judged = promotion.judge(folder, self.store, self.limits)
        objections = self._objections(state.candidate)
        if not judged.passed or objections:
            outcome = _refused("promote", judged, objections)
            outcome.version = state.candidate
            if self.apply:
                self.store.withdraw(state.candidate)
                self._write_verdict(judged, objections)
                outcome.applied = True
                outcome.text += "; it is a shadow no more"
            return outcome
        if not self.apply:
            text = f"version {state.candidate} passes the gate; --apply makes it the champion"
            return Outcome("promote", False, text, judged.run.id, state.candidate)
        moved = self._move(judged, "champion")
        return Outcome("promote", True, _moved_text(moved), judged.run.id, moved.version)

    def _move(self, judged: Judged, role: str) -> Moved:
        from training.shipping import promotion

        to: Role = "champion" if role == "champion" else "candidate"
        now_ms = int(time.time() * 1000)
        try:
            return promotion.promote(judged, self.store, self._registry(), to, now_ms=now_ms)
        except UnavailableError as error:
            # A promotion must not wait for a tracking server: `volcast models sync` moves its aliases later.
            click.echo(f"volcast: {error}", err=True)
            return promotion.promote(judged, self.store, None, to, now_ms=now_ms)

    def _registry(self) -> MlflowServer | None:
        from training.shipping.tracking.mlflow_server import MlflowServer

        return MlflowServer(self.config.tracking) if self.track else None

    def _objections(self, version: str) -> list[str]:
        from training.shipping.retraining import shadow_objections, shadow_report

        if self.server_metrics is None:
            return []
        try:
            with open_url(self.server_metrics, METRICS_TIMEOUT_S) as answer:
                text = answer.read().decode()
        except (OSError, ValueError, urllib.error.URLError) as error:
            raise UnavailableError(f"--server-metrics {self.server_metrics}: {error}") from None
        return shadow_objections(shadow_report(text, self.store.name, version), self.shadow_rows)

    def _state(self) -> State:
        from training.problem.data.dataset import fingerprint
        from training.shipping.retraining import State
        from training.shipping.tracking.record import BUNDLE, code_version, read_run, run_key, runs

        request = self.request
        key = run_key(
            name=self.store.name,
            data=fingerprint(request.paths),
            code=code_version(),
            schema=request.schema_name,
            settings=request.settings,
            options=[recording.options for recording in request.recordings],
        )
        folders = [folder for folder, run in runs(self.runs_dir) if run.key == key]
        labels, history = self.store.effective_labels(), self.store.history()
        stable = labels.stable if labels else ""
        on_trial = history.candidate if labels and labels.of(history.candidate) in ("canary", "shadow") else ""
        return State(
            key=key,
            run=read_run(folders[-1]) if folders else None,
            refused=bool(folders) and self._was_refused(folders[-1], stable),
            version=self.store.version_of(folders[-1] / BUNDLE) if folders else "",
            candidate=on_trial,
            candidate_age_s=time.time() - history.candidate_since_ms / 1000,
            stable=stable,
        )

    def _train(self, key: str) -> Path:
        from training.shipping.training_run import keep_run, train_bundle

        started_s = time.time()
        try:
            # Promotion gives the bundle its number; a dry run uses none.
            trained = train_bundle(self.request, self.store.name, "1")
        except InputError as error:
            if not self.archive:
                raise
            hint = "record for longer, or name recordings: volcast retrain FILE..."
            raise InputError(f"{error}. It read {self.archive} (ingest.archive_dir): {hint}") from None
        return keep_run(trained, self.runs_dir, started_s, key)

    def _was_refused(self, folder: Path, stable: str) -> bool:
        try:
            verdict = msgspec.json.decode((folder / GATE_FILE).read_bytes(), type=Verdict)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return False
        # A latency depends on the load of the machine, so a refusal for latency alone is judged again.
        lasting = [reason for reason in verdict.reasons if not reason.startswith("latency:")]
        return bool(lasting) and verdict.champion == stable

    def _write_verdict(self, judged: Judged, objections: list[str] | None = None) -> None:
        from common.files import replace_file
        from training.judging.gate import refusals

        labels = self.store.effective_labels()
        reasons = [*refusals(judged.checks), *(objections or [])]
        verdict = Verdict(not reasons, labels.stable if labels else "", reasons)
        replace_file(judged.folder / GATE_FILE, msgspec.json.encode(verdict))


def _paths(files: tuple[str, ...], config: Config) -> list[Path]:
    """The recordings to train on; without FILEs, those of the archive. Raises InputError if there is none."""
    if files:
        return list(dict.fromkeys(path for name in files for path in expand_paths(name)))
    folder = config.ingest.archive_dir
    if not folder:
        raise InputError("no FILE was given, and ingest.archive_dir is empty")
    try:
        return expand_paths(folder)
    except InputError:
        raise InputError(
            f"no recording in {folder} (ingest.archive_dir): `volcast ingest` and `volcast run` record there; or name "
            "recordings: volcast retrain FILE..."
        ) from None


def _refused(step: str, judged: Judged, objections: list[str] | None = None) -> Outcome:
    from training.judging.gate import refusals

    reasons = [*refusals(judged.checks), *(f"shadow: {objection}" for objection in objections or [])]
    return Outcome(step, False, "refused by the gate", judged.run.id, reasons=reasons)


def _moved_text(moved: Moved) -> str:
    before = f" (before: {moved.previous})" if moved.previous else ""
    return f"version {moved.version} is the {moved.role}{before}"


def _print(outcome: Outcome, as_json: bool) -> int:
    """Returns the exit code."""
    if as_json:
        click.echo(msgspec.json.encode({**msgspec.to_builtins(outcome), "exit_code": outcome.exit_code}).decode())
        return outcome.exit_code
    click.echo(f"{outcome.step}: {f'run {outcome.run}: ' if outcome.run else ''}{outcome.text}")
    for reason in outcome.reasons:
        click.echo(f"  REFUSED {reason}")
    return outcome.exit_code
