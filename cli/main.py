"""Entry point of the `volcast` program.

Each command lives in the folder it belongs to and is imported only when it is called, so `volcast
serve` starts without numba and works where only the serving extra is installed.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import NamedTuple

import click

from cli.extras import missing_extra
from common.compiled_code import keep_compiled_code
from common.errors import OutputError, VolcastError
from common.lifecycle import survive_hangups
from common.proxies import bypass_proxies_on_this_machine
from common.streams import ReaderGoneError, protect_standard_streams


class Lazy(NamedTuple):
    """A command: module and function, the extra with its imports, its line in --help."""

    target: str
    extra: str
    help: str


COMMANDS = {
    "run": Lazy("cli.run.command:run", "serving,pipeline", "The whole path on this machine."),
    "broker": Lazy("pipeline.commands.broker:broker", "broker", "Apache Kafka for this machine."),
    "exchange": Lazy("pipeline.commands.exchange:exchange", "pipeline", "A simulated or replayed exchange."),
    "ingest": Lazy("pipeline.commands.ingest:ingest", "pipeline", "Exchange to ticks.raw and archive."),
    "replay": Lazy("pipeline.commands.replay:replay", "pipeline", "Archive to ticks.raw."),
    "check": Lazy("pipeline.commands.check:check", "pipeline", "Consume and validate the topics."),
    "worker": Lazy("pipeline.commands.worker:worker", "pipeline", "ticks.raw to features to predictions."),
    "features": Lazy("pipeline.commands.features:features", "pipeline", "Archive to features.parquet, offline."),
    "explore": Lazy("training.commands.explore:explore", "training", "A report on a data set, with plots."),
    "train": Lazy("training.commands.train:train", "training", "Train, export and write a model bundle."),
    "evaluate": Lazy("training.commands.evaluate:evaluate", "training", "A report on a model against outcomes."),
    "models": Lazy("cli.models.commands:models", "serving", "Bundles: list, add, verify, promote, roll back."),
    "infer": Lazy("training.commands.infer:infer", "training", "Offline inference and its latency."),
    "retrain": Lazy("training.commands.retrain:retrain", "training", "New archive to promoted model, step by step."),
    "drift": Lazy("training.commands.drift:drift", "training", "Drift of live data from training data."),
    "monitor": Lazy("training.commands.monitor:monitor", "training", "Live scores of predictions against outcomes."),
    "serve": Lazy("server.commands.serve:serve", "serving", "The inference server."),
    "gateway": Lazy("server.commands.gateway:gateway", "serving", "The REST gateway."),
    "token": Lazy("server.commands.token:token", "", "A new bearer token."),
    "predict": Lazy("clients.commands.predict:predict", "", "One prediction from the command line."),
    "watch": Lazy("pipeline.commands.watch:watch", "pipeline", "The live stream of predictions."),
    "bench": Lazy("benchmarks.command:bench", "serving,pipeline", "A benchmark by name."),
}


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise _needs_extra(cmd_name, error) from None
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            # click looks for similar names among the commands that are imported, which here are none.
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:  # some commands import heavy packages when they run
            raise _needs_extra(ctx.invoked_subcommand or "", error) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


def _needs_extra(name: str, error: ModuleNotFoundError) -> Exception:
    return missing_extra(name, COMMANDS[name].extra if name in COMMANDS else "", error)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="volcast")
def volcast() -> None:
    """The probability of a volatility spike in the next 60 s, on every tick, over gRPC.

    \b
    Start here:
      volcast run --duration 30s        the whole path, with a summary at the end
      volcast COMMAND --help            each command, with examples
    """


def main() -> None:
    """Runs one command. An error is one line on standard error and an exit code."""
    survive_hangups()
    protect_standard_streams()
    bypass_proxies_on_this_machine(os.environ)
    keep_compiled_code(os.environ)
    code = run_command(sys.argv[1:])
    sys.exit(_flush(code))


def run_command(arguments: list[str]) -> int:
    try:
        result = volcast.main(args=arguments, prog_name="volcast", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except click.ClickException as error:
        where = f" (see: {error.ctx.command_path} --help)" if isinstance(error, click.UsageError) and error.ctx else ""
        _print_error(f"{' '.join(error.format_message().split())}{where}")
        return error.exit_code
    except VolcastError as error:
        _print_error(" ".join(str(error).split()))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return 130
    except ReaderGoneError:
        return 0


def _flush(code: int) -> int:
    """Writes what standard output still buffers; returns the exit code."""
    try:
        sys.stdout.flush()
    except ReaderGoneError:
        return code
    except OutputError as error:
        _print_error(str(error))
        return code or error.exit_code
    return code


def _print_error(text: str) -> None:
    click.echo(f"volcast: {text}", err=True)


if __name__ == "__main__":
    main()
