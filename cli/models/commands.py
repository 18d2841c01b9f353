"""`volcast models`: adds, lists and verifies bundles, and decides which version answers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.extras import missing_extra
from cli.models import listing
from cli.models.output import print_added, print_checks, print_json, print_move, print_verdict, table
from common.bundle import Manifest, read_bundle
from common.cli import FiniteRange, config_option, examples, json_option
from common.config import Config, load_config
from common.console import tables
from common.errors import BundleError, UnavailableError, UsageError
from common.log import configure_logs
from common.model_store import ModelStore, Moved, Role, model_name, model_names
from common.schema import CORE_1

if TYPE_CHECKING:
    from training.judging.gate import GateLimits
    from training.shipping.tracking.mlflow_server import MlflowServer

# The extra that brings the imports of a subcommand; `list` and `rollback` need none.
EXTRAS = {"add": "models", "verify": "serving", "promote": "training", "sync": "training"}


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            name = ctx.invoked_subcommand or ""
            raise missing_extra(f"models {name}", EXTRAS.get(name, ""), error) from None


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command of the group."""
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
    cls=_Group,
    epilog=examples(
        "volcast models list",
        "volcast models add forest.onnx --name mine",
        "volcast models verify volatility 4",
        "volcast models promote volatility --run volatility-xgboost-20261124 --to candidate",
        "volcast models promote volatility 5",
        "volcast models rollback volatility",
        "volcast models sync",
    ),
)
def models() -> None:
    """Bundles: add your own (docs/own_model.md), promote and roll back, upload runs to MLflow (docs/promotion.md).

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by the gate.
    """


@models.command("list", epilog=examples("volcast models list", "volcast models list volatility --json"))
@click.argument("name", required=False)
@options
def list_(
    name: str | None, models_dir: Path | None, runs_dir: Path | None, as_json: bool, config_file: Path | None
) -> int:
    """Lists versions in the models folder with their labels, and the runs on this machine.

    The spike size is the smallest volatility of a spike; for a forecast model, its default size. crps and pr_auc are
    means over the walk-forward folds.
    """
    workplace = Workplace(config_file, models_dir, runs_dir)
    stores = [workplace.store(name)] if name else workplace.stores()
    versions = [row for store in stores for row in listing.versions(store)]
    runs, damaged = listing.runs(workplace.runs_dir, workplace.config.tracking, name)
    if as_json:
        print_json({"models": versions, "runs": runs, "unreadable": damaged})
        return 0

    console = tables()
    columns = ("name", "version", "label", "kind", "schema", "trained_until", "spike size", *listing.SCORES, "error")
    console.print(table("Models", [listing.shown(row) for row in versions], columns))
    if listing.scores_differ_in_base(versions):
        click.echo(
            "scores of versions with another spike size or other rows do not compare; the gate compares on the same "
            "rows\n"
        )
    for row in versions:
        if row.get("why") and row["label"] == "stable":
            click.echo(f"{row['name']} {row['version']}: {row['why']}\n")
    for line in damaged:
        click.echo(f"volcast: {line}", err=True)
    console.print(table("Runs", runs, ("run", "code", *listing.SCORES, "version", "mlflow")))
    return 0


@models.command(
    "add",
    epilog=examples(
        "volcast models add forest.onnx --name mine",
        "volcast models add forest.onnx --name mine --features features.json --threshold 0.3",
        "volcast models add classes.onnx --name mine --output probabilities:2",
    ),
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", required=True, help="Name of the model, which callers select.")
@click.option("--schema", "schema_name", metavar="SCHEMA", help="Features of the graph (default: core/1).")
@click.option(
    "--features",
    "features_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="JSON file with the names of your own features, in the order of the graph.",
)
@click.option("--output", metavar="NAME[:COLUMN]", help="The output that holds the probability, and its column.")
@click.option("--threshold", type=FiniteRange(0, 1), default=0.5, show_default=True, help="Alert level.")
@options
def add(
    file: Path,
    name: str,
    schema_name: str | None,
    features_file: Path | None,
    output: str | None,
    threshold: float,
    models_dir: Path | None,
    runs_dir: Path | None,
    as_json: bool,
    config_file: Path | None,
) -> int:
    """Adds your own ONNX graph as the next version of a model, without a label (docs/own_model.md).

    Types, names and outputs are adapted inside the graph; every change is printed. The server's load checks decide.
    """
    if schema_name is not None and features_file is not None:
        raise UsageError("--schema and --features: choose one")
    workplace = Workplace(config_file, models_dir, runs_dir)
    store = workplace.store(name)
    from cli.models.add import add_graph
    from cli.models.features import known_schema, read_features
    from cli.models.source import read_source

    choice = read_features(features_file, name) if features_file else known_schema(schema_name or CORE_1.name)
    source, changes = read_source(file)
    try:
        added = add_graph(source, store, choice, output=output, threshold=threshold)
    except BundleError as error:
        raise BundleError(f"{file}: {error}") from None
    print_added(added, str(file), changes, as_json)
    return 0


@models.command(
    "verify", epilog=examples("volcast models verify volatility 4", "volcast models verify --path data/runs/RUN/bundle")
)
@click.argument("name", required=False)
@click.argument("version", required=False)
@click.option(
    "--path", type=click.Path(path_type=Path, file_okay=False), help="Folder of a bundle, instead of NAME VERSION."
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
    """Loads a bundle with the server's own checks, and times one row."""
    workplace = Workplace(config_file, models_dir, runs_dir)
    budget_us = workplace.config.gate.max_latency_us
    if (path is None) == (name is None or version is None) or (path is not None and name is not None):
        raise UsageError("name a bundle: NAME VERSION, or --path FOLDER")
    from cli.models.verify import verify_folder, verify_version

    if path is not None:
        folder, checks = path, verify_folder(path, budget_us)
    else:
        folder = workplace.store(str(name)).path(str(version))
        checks = verify_version(workplace.models_dir, str(name), str(version), budget_us)
    print_checks(checks, as_json, bundle=str(folder))
    return 0 if all(check.passed for check in checks) else 1


@models.command(
    "promote",
    epilog=examples(
        "volcast models promote volatility --run RUN --to candidate",
        "volcast models promote volatility --run RUN --to candidate --share 0.05",
        "volcast models promote volatility 5              # candidate to champion",
        "volcast models promote volatility 5 --dry-run    # what the gate says, and nothing else",
    ),
)
@click.argument("name")
@click.argument("version", required=False)
@click.option("--run", metavar="RUN", help="The run of the model: its id, the start of its id, or MLflow's id.")
@click.option("--to", "role", type=click.Choice(("candidate", "champion")), default="champion", show_default=True)
@click.option(
    "--share",
    type=FiniteRange(0, 1),
    help="Share of callers for a candidate (default: a shadow, without callers).",
)
@click.option("--dry-run", is_flag=True, help="Run the gate, change nothing.")
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
    """Runs the gate for a model and, if it passes, makes it champion or candidate.

    A champion becomes the stable version that servers answer with; a candidate scores beside it as a shadow, or
    answers a share. If the gate refuses a model, it prints every reason and changes nothing.
    """
    if share is not None and role != "candidate":
        raise UsageError("--share needs --to candidate")
    workplace = Workplace(config_file, models_dir, runs_dir)
    from cli.models.verify import load_check
    from training.shipping import promotion
    from training.shipping.tracking.record import BUNDLE

    store = workplace.store(name)
    folder = promotion.chosen_run(store, workplace.runs_dir, version, run)
    judged = promotion.judge(folder, store, workplace.limits())
    judged = replace(judged, checks=(load_check(folder / BUNDLE), *judged.checks))
    if dry_run or not judged.passed:
        return print_verdict(judged, as_json)
    registry = None if no_track else workplace.tracker
    to: Role = "candidate" if role == "candidate" else "champion"
    moved = promotion.promote(judged, store, registry, to, canary_share=share, now_ms=int(time.time() * 1000))
    print_move(moved, judged.checks, as_json)
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
    """Moves the stable label back to the previous champion. Servers follow within server.watch_s.

    It waits neither for the gate nor for MLflow. Afterwards it moves MLflow's alias, or leaves that to `volcast models
    sync`. If the gate would refuse the version for a reason that its manifest shows, a warning gives the reason.
    """
    workplace = Workplace(config_file, models_dir, runs_dir)
    store = workplace.store(name)
    moved = _rolled_back(workplace, store)
    print_move(moved, (), as_json)
    click.echo(f"volcast: {_gate_text(store, moved.version)}", err=True)
    if not no_track:
        _move_alias(workplace, name)
    return 0


@models.command("sync", epilog=examples("volcast models sync", "volcast models sync --fetch MLFLOW_RUN_ID"))
@click.option("--fetch", metavar="RUN", help="Download this run from MLflow first: its id, or MLflow's id.")
@options
def sync(
    fetch: str | None, models_dir: Path | None, runs_dir: Path | None, as_json: bool, config_file: Path | None
) -> int:
    """Continues unfinished uploads of runs to MLflow, and sets its aliases from labels.json."""
    workplace = Workplace(config_file, models_dir, runs_dir)
    from training.shipping.tracking.mlflow_server import waiting
    from training.shipping.tracking.record import unreadable

    tracker = workplace.tracker
    fetched = str(tracker.fetch(fetch, workplace.runs_dir)) if fetch else None
    uploaded = []
    for folder in waiting(workplace.runs_dir, tracker.uri):
        tracker.upload(folder)
        uploaded.append(folder.name)
    for line in unreadable(workplace.runs_dir):
        click.echo(f"volcast: {line}", err=True)
    aliases = {store.name: workplace.reconcile(store) for store in workplace.stores()}
    if as_json:
        print_json({"uri": tracker.uri, "uploaded": uploaded, "fetched": fetched, "aliases": aliases})
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


class Workplace:
    """The folders and the tracking server that a command works with."""

    def __init__(self, config_file: Path | None, models_dir: Path | None, runs_dir: Path | None) -> None:
        self.config: Config = load_config(config_file)
        configure_logs(self.config.log, "models")
        self.models_dir = models_dir or Path(self.config.server.models_dir)
        self.runs_dir = runs_dir or Path(self.config.tracking.runs_dir)

    def store(self, name: str) -> ModelStore:
        return ModelStore(self.models_dir, model_name(name))

    def names(self) -> list[str]:
        return model_names(self.models_dir)

    def stores(self) -> list[ModelStore]:
        """One per folder, also if its name is not a valid `model_name`."""
        return [ModelStore(self.models_dir, name) for name in self.names()]

    def limits(self) -> GateLimits:
        from training.judging.gate import GateLimits

        gate = self.config.gate
        return GateLimits(champion_margin=gate.champion_margin, max_latency_us=gate.max_latency_us, seed=gate.seed)

    @cached_property
    def tracker(self) -> MlflowServer:
        from training.shipping.tracking.mlflow_server import MlflowServer

        return MlflowServer(self.config.tracking)

    def reconcile(self, store: ModelStore) -> dict[str, str | None]:
        from training.shipping.aliases import reconcile

        return reconcile(store, self.tracker, self.runs_dir)


def _rolled_back(workplace: Workplace, store: ModelStore) -> Moved:
    """Raises UsageError with the alternatives if there is no such model or no champion to go back to."""
    if not store.versions():
        known = ", ".join(workplace.names()) or "none"
        raise UsageError(f"model {store.name} has no version in {workplace.models_dir}; models there: {known}")
    try:
        return store.rollback()
    except UsageError as error:
        raise UsageError(
            f"{error}; `volcast models promote {store.name} VERSION` makes that version the champion if its run is "
            "kept; otherwise write labels.json (docs/models.md)"
        ) from None


def _gate_text(store: ModelStore, version: str) -> str:
    """A line about the gate's view of a version that became champion without the gate."""
    command = f"`volcast models promote {store.name} {version} --dry-run` runs the gate"
    manifest, _ = read_bundle(store.path(version))
    if manifest.forecast is None:
        return f"WARNING: version {version} gives one probability and no forecast, which the gate does not judge"
    if reason := _unproven(manifest):
        return f"WARNING: today's gate refuses version {version}: {reason}; {command}"
    return f"the gate did not judge version {version} again: {command}"


def _unproven(manifest: Manifest) -> str:
    """The reason why a manifest does not show that its kind beats HAR; "" for HAR and if it does."""
    scores = manifest.walk_forward.get(manifest.kind, {})
    if manifest.kind == "har" or scores.get("crps_minus_har_high", math.inf) < 0:
        return ""
    return f"{manifest.kind} is not shown to beat HAR on the folds of its training"


def _move_alias(workplace: Workplace, name: str) -> None:
    """Points MLflow's alias at the new champion; prints a line if that has to wait."""
    try:
        if workplace.tracker.exists:
            workplace.reconcile(workplace.store(name))
    except UnavailableError as error:
        click.echo(f"volcast: {error}", err=True)
    except ModuleNotFoundError as error:
        text = f"MLflow's alias stays: {error.name} is not installed (extra [training]); `volcast models sync` moves it"
        click.echo(f"volcast: {text}", err=True)
