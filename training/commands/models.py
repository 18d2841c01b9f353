"""`volcast models`: which versions there are, whether they are sound, and which of them answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from common.cli import config_option, examples, json_option
from common.config import Config, load_config
from common.errors import BundleError, UnavailableError, UsageError
from common.log import configure_logs
from training.commands.console import tables

if TYPE_CHECKING:
    from training.gate import Check, Limits
    from training.promotion import Judged, Moved
    from training.store import ModelStore
    from training.tracking.mlflow_server import MlflowServer

REFUSED = 3


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What every command of the group takes."""
    folder = click.Path(path_type=Path, file_okay=False)
    for decorate in (
        config_option,
        json_option,
        click.option("--runs-dir", type=folder, help="Folder of runs (config: tracking.runs_dir)."),
        click.option("--models-dir", type=folder, help="Folder that servers read (config: server.models_dir)."),
    ):
        function = decorate(function)
    return function


no_track = click.option("--no-track", is_flag=True, help="Leave MLflow alone: no upload, no alias.")


@click.group(
    "models",
    epilog=examples(
        "volcast models list",
        "volcast models verify volatility 2",
        "volcast models promote volatility --run volatility-xgboost-20261124 --to candidate",
        "volcast models promote volatility 2",
        "volcast models rollback volatility",
        "volcast models sync",
    ),
)
def models() -> None:
    """Bundles, who is champion, and the way of runs to MLflow (docs/promotion.md).

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by the gate.
    """


@models.command("list", epilog=examples("volcast models list", "volcast models list volatility --json"))
@click.argument("name", required=False)
@options
def list_(
    name: str | None, models_dir: Path | None, runs_dir: Path | None, as_json: bool, config_file: Path | None
) -> int:
    """Versions below the models folder with their labels, and the runs that are kept here.

    τ is the volatility from which on a version calls a minute a spike; pr_auc is its mean over the walk-forward folds.
    """
    here = _Here(config_file, models_dir, runs_dir)
    from training.tracking.record import unreadable

    found = [one for each in ([name] if name else here.names()) for one in _versions(here.store(each))]
    kept, damaged = _runs(here, name), unreadable(here.runs_dir)
    if as_json:
        click.echo(msgspec.json.encode({"models": found, "runs": kept, "unreadable": damaged}).decode())
        return 0

    console = tables()
    columns = ("name", "version", "label", "kind", "schema", "trained_until", "τ", "pr_auc", "error")
    console.print(_table("Models", [_shown(one) for one in found], columns))
    if _judged_apart(found):
        click.echo(
            "scores of versions with another τ or other rows do not compare; the gate compares on the same rows\n"
        )
    for one in found:
        if one.get("why") and one["label"] == "stable":
            click.echo(f"{one['name']} {one['version']}: {one['why']}\n")
    for line in damaged:
        click.echo(f"volcast: {line}", err=True)
    console.print(_table("Runs", kept, ("run", "code", "pr_auc", "version", "mlflow")))
    return 0


@models.command(
    "verify", epilog=examples("volcast models verify volatility 2", "volcast models verify --path data/runs/RUN/bundle")
)
@click.argument("name", required=False)
@click.argument("version", required=False)
@click.option(
    "--path", type=click.Path(path_type=Path, file_okay=False), help="A bundle anywhere, in place of NAME VERSION."
)
@options
def verify(
    name: str | None,
    version: str | None,
    path: Path | None,
    models_dir: Path | None,
    runs_dir: Path | None,
    as_json: bool,
    config_file: Path | None,
) -> int:
    """Reads a bundle as a server would, and asks it what the manifest promises: hash, schema, self-test, latency."""
    here = _Here(config_file, models_dir, runs_dir)
    if (path is None) == (name is None or version is None):
        raise UsageError("name a bundle: NAME VERSION, or --path FOLDER")
    from training.verify import verify_bundle

    folder = path if path is not None else here.store(str(name)).path(str(version))
    checks = verify_bundle(folder, here.limits())
    _tell(checks, as_json, bundle=str(folder))
    return 0 if all(check.passed for check in checks) else 1


@models.command(
    "promote",
    epilog=examples(
        "volcast models promote volatility --run RUN --to candidate",
        "volcast models promote volatility --run RUN --to candidate --share 0.05",
        "volcast models promote volatility 2              # candidate to champion",
        "volcast models promote volatility 2 --dry-run    # what the gate says, and nothing else",
    ),
)
@click.argument("name")
@click.argument("version", required=False)
@click.option("--run", metavar="RUN", help="The run that made it: its id or how that begins, or MLflow's.")
@click.option("--to", "role", type=click.Choice(("candidate", "champion")), default="champion", show_default=True)
@click.option("--share", type=click.FloatRange(0, 1), help="Of the callers, for a candidate (default: none, a shadow).")
@click.option("--dry-run", is_flag=True, help="Judge only.")
@no_track
@options
def promote(
    name: str,
    version: str | None,
    run: str | None,
    role: str,
    share: float | None,
    dry_run: bool,
    no_track: bool,
    models_dir: Path | None,
    runs_dir: Path | None,
    as_json: bool,
    config_file: Path | None,
) -> int:
    """Puts a model before the gate and, where it passes, before callers.

    A champion becomes the stable version that servers answer with; a candidate scores beside it as a shadow, or
    answers a share. What the gate refuses is told with every reason, and changes nothing.
    """
    if share is not None and role != "candidate":
        raise UsageError("--share is a candidate's: name --to candidate")
    here = _Here(config_file, models_dir, runs_dir)
    from training import promotion

    store = here.store(name)
    judged = promotion.judge(promotion.chosen_run(store, here.runs_dir, version, run), store, here.limits())
    if dry_run or not judged.passed:
        return tell_verdict(judged, as_json)
    registry = None if no_track else here.tracker()
    to: promotion.Role = "candidate" if role == "candidate" else "champion"
    moved = promotion.promote(judged, store, registry, to, canary_share=share, now_ms=_now_ms())
    tell_move(moved, judged.checks, as_json)
    return 0


@models.command(
    "rollback", epilog=examples("volcast models rollback volatility", "volcast models rollback volatility --no-track")
)
@click.argument("name")
@no_track
@options
def rollback(
    name: str, no_track: bool, models_dir: Path | None, runs_dir: Path | None, as_json: bool, config_file: Path | None
) -> int:
    """Gives the stable label back to the champion before. Servers follow within server.watch_s.

    MLflow being away does not hold it up: the alias follows with `volcast models sync`.
    """
    here = _Here(config_file, models_dir, runs_dir)
    moved = _rolled_back(here, here.store(name))
    if not no_track:
        _say_if_away(lambda: here.reconcile(name))
    tell_move(moved, (), as_json)
    return 0


@models.command("sync", epilog=examples("volcast models sync", "volcast models sync --fetch MLFLOW_RUN_ID"))
@click.option("--fetch", metavar="RUN", help="First bring this run from MLflow: its id, or MLflow's.")
@options
def sync(
    fetch: str | None, models_dir: Path | None, runs_dir: Path | None, as_json: bool, config_file: Path | None
) -> int:
    """Uploads the runs that wait, from wherever each got to, and sets MLflow's aliases by labels.json."""
    here = _Here(config_file, models_dir, runs_dir)
    from training.tracking.mlflow_server import waiting
    from training.tracking.record import unreadable

    tracker = here.tracker()
    fetched = str(tracker.fetch(fetch, here.runs_dir)) if fetch else None
    uploaded = []
    for folder in waiting(here.runs_dir, tracker.uri):
        tracker.upload(folder)
        uploaded.append(folder.name)
    for line in unreadable(here.runs_dir):
        click.echo(f"volcast: {line}", err=True)
    aliases = {name: here.reconcile(name) for name in here.names()}
    if as_json:
        told = {"uri": tracker.uri, "uploaded": uploaded, "fetched": fetched, "aliases": aliases}
        click.echo(msgspec.json.encode(told).decode())
        return 0
    if fetched:
        click.echo(f"fetched {fetched}")
    plural = "" if len(uploaded) == 1 else "s"
    click.echo(f"uploaded {len(uploaded)} run{plural} to {tracker.uri}: {', '.join(uploaded) or 'none waited'}")
    for name, moved in aliases.items():
        for alias, version in moved.items():
            text = f"is the registry's version {version}" if version else "is taken away: its model is not there"
            click.echo(f"{name}: {alias} {text}")
    return 0


class _Here:
    """The folders and the tracking server that a command works with."""

    def __init__(self, config_file: Path | None, models_dir: Path | None, runs_dir: Path | None) -> None:
        self.config: Config = load_config(config_file)
        configure_logs(self.config.log, "models")
        self.models_dir = models_dir or Path(self.config.server.models_dir)
        self.runs_dir = runs_dir or Path(self.config.tracking.runs_dir)
        self._tracker: MlflowServer | None = None

    def store(self, name: str) -> ModelStore:
        from training.store import ModelStore

        if not name.replace("-", "").replace("_", "").isalnum():
            raise UsageError(f"NAME: expected letters, digits, - and _, got {name!r}")
        return ModelStore(self.models_dir, name)

    def names(self) -> list[str]:
        from training.store import model_names

        return model_names(self.models_dir)

    def limits(self) -> Limits:
        from training.gate import Limits

        gate = self.config.gate
        return Limits(gate.max_latency_us, gate.champion_margin, gate.seed)

    def tracker(self) -> MlflowServer:
        from training.tracking.mlflow_server import MlflowServer

        if self._tracker is None:
            self._tracker = MlflowServer(self.config.tracking)
        return self._tracker

    def reconcile(self, name: str) -> dict[str, str | None]:
        from training import promotion

        return promotion.reconcile(self.store(name), self.tracker(), self.runs_dir)


def tell_verdict(judged: Judged, as_json: bool) -> int:
    """Prints what the gate found; the exit code of it."""
    _tell(judged.checks, as_json, run=judged.run.id, model=judged.manifest.name)
    return 0 if judged.passed else REFUSED


def _tell(checks: tuple[Check, ...], as_json: bool, **what: str) -> None:
    passed = all(check.passed for check in checks)
    if as_json:
        told = [{"name": one.name, "passed": one.passed, "text": one.text} for one in checks]
        click.echo(msgspec.json.encode({**what, "passed": passed, "checks": told}).decode())
        return
    click.echo(f"{', '.join(what.values())}: {'passed' if passed else 'REFUSED'}")
    for one in checks:
        click.echo(f"  {'ok     ' if one.passed else 'REFUSED'} {one.name:<10} {one.text}")


def tell_move(moved: Moved, checks: tuple[Check, ...], as_json: bool) -> None:
    if as_json:
        told = {
            "name": moved.name,
            "version": moved.version,
            "role": moved.role,
            "changed": moved.changed,
            "previous": moved.previous,
            "labels": msgspec.to_builtins(moved.labels),
            "checks": [{"name": one.name, "passed": one.passed, "text": one.text} for one in checks],
        }
        click.echo(msgspec.json.encode(told).decode())
        return
    for one in checks:
        click.echo(f"  ok      {one.name:<10} {one.text}")
    verb = "is now" if moved.changed else "was already"
    before = f" (before: {moved.previous})" if moved.previous else ""
    click.echo(f"{moved.name}: version {moved.version} {verb} the {moved.role}{before}")


def _rolled_back(here: _Here, store: ModelStore) -> Moved:
    """Raises UsageError, with what is there instead, where there is no such model or no champion to go back to."""
    from training import promotion

    if not store.versions():
        raise UsageError(
            f"model {store.name} has no version in {here.models_dir}; models there: {', '.join(here.names()) or 'none'}"
        )
    try:
        return promotion.rollback(store)
    except UsageError as error:
        raise UsageError(
            f"{error}; `volcast models promote {store.name} VERSION` makes another the champion, where the run that "
            "made it is kept; without one, write labels.json (docs/models.md)"
        ) from None


def _say_if_away(ask: Callable[[], object]) -> None:
    try:
        ask()
    except UnavailableError as error:
        click.echo(f"volcast: {error}", err=True)


def _versions(store: ModelStore) -> list[dict[str, Any]]:
    from common.bundle import read_bundle
    from training.lead import why_it_ships

    labels = store.effective_labels()
    found = []
    for version, folder in store.versions().items():
        told: dict[str, Any] = {
            "name": store.name,
            "version": version,
            "label": labels.of(version) if labels else "",
        }
        try:
            manifest, _ = read_bundle(folder)
        except BundleError as error:
            found.append(told | {"error": str(error)})
            continue
        told |= {"kind": manifest.kind, "schema": manifest.schema.name, "trained_until": _day(manifest.training.end_ns)}
        told |= {"label_threshold": manifest.label.threshold}
        told |= {"why": why_it_ships(manifest.kind, manifest.walk_forward)}
        told |= {"evaluation_ns": (manifest.evaluation.start_ns, manifest.evaluation.end_ns)}
        score = manifest.walk_forward.get(manifest.kind, {}).get("pr_auc")
        found.append(told | {"pr_auc": "" if score is None else f"{score:.3f}", "error": ""})
    return found


def _shown(version: dict[str, Any]) -> dict[str, str]:
    threshold = version.get("label_threshold")
    return version if threshold is None else version | {"τ": f"{1e4 * threshold:.2f} bp"}


def _judged_apart(versions: list[dict[str, Any]]) -> bool:
    """Whether some were scored against another τ, or on other rows, than others."""
    judged = {(one["label_threshold"], one["evaluation_ns"]) for one in versions if "label_threshold" in one}
    return len(judged) > 1


def _runs(here: _Here, name: str | None) -> list[dict[str, str]]:
    from training.tracking.mlflow_server import FINISHED, tracking_uri
    from training.tracking.record import read_upload, runs

    uri = tracking_uri(here.config.tracking)
    found = []
    for folder, run in runs(here.runs_dir):
        if name is not None and run.name != name:
            continue
        upload = read_upload(folder, uri)
        score = run.metrics.get(f"walk_forward/{run.kind}/pr_auc")
        state = f"version {upload.version}" if upload.has(FINISHED) else "waits"
        found.append(
            {
                "run": run.id,
                "code": run.code,
                "pr_auc": "" if score is None else f"{score:.3f}",
                "version": upload.version,
                "mlflow": state,
            }
        )
    return found


def _table(title: str, rows: list[dict[str, str]], columns: tuple[str, ...]) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table

    shown = [column for column in columns if any(row.get(column) for row in rows)]
    table = Table(title=title if rows else f"{title}: none", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for column in shown:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(row.get(column, "") for column in shown))
    return table


def _day(time_ns: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time_ns / 1e9, UTC).date().isoformat()


def _now_ms() -> int:
    return int(time.time() * 1000)
