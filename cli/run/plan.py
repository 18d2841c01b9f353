"""The plan of a run: the exchange, and the settings by which the processes find each other."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from common.config import Config, reachable
from common.errors import UsageError
from pipeline.archive import expand_paths, require_messages
from pipeline.feed.coinbase import CoinbaseFeed
from pipeline.feed.venues import FEEDS

# A simulated market sends its first minutes at once, so that windows are warm from the start: the longest window of
# each schema, in seconds. Importing the engine for these numbers would import numba, which takes a second.
FAST_FORWARD_S = {"core/1": 60.0, "full/1": 300.0, "full/2": 300.0}


@dataclass(frozen=True, slots=True)
class Exchange:
    """The source of the ticks."""

    kind: str  # simulated, replay, or the name of a live exchange
    recording: str = ""  # FILE, DIR, GLOB or several with commas

    @classmethod
    def parse(cls, text: str) -> Exchange:
        kind, _, recording = text.partition(":")
        if kind == "replay":
            if not recording:
                raise UsageError(
                    "--exchange replay: expected replay:FILE, a folder or a pattern, got nothing after ':'"
                )
            return cls("replay", recording)
        if text == "simulated":
            return cls("simulated")
        if text in FEEDS:
            return cls(text)
        raise UsageError(f"--exchange {text!r}: expected simulated, replay:FILE or {' or '.join(FEEDS)}")

    @property
    def live(self) -> bool:
        return self.kind in FEEDS

    def require_recording(self) -> None:
        """Raises InputError if the recording does not exist or cannot be sent, before any process starts."""
        if self.kind == "replay":
            require_messages(expand_paths(self.recording), CoinbaseFeed.venue)

    def arguments(self, *, speed: float, seed: int, duration_s: float | None, schema: str = "core/1") -> list[str]:
        """Arguments of `volcast exchange`."""
        rate = "max" if speed == float("inf") else f"{speed:g}"
        if self.kind == "replay":
            return ["exchange", "--replay", self.recording, "--speed", rate]
        arguments = ["exchange", "--simulate", "--seed", str(seed), "--speed", rate]
        arguments += ["--fast-forward", f"{FAST_FORWARD_S[schema]:g}s"]
        if duration_s is not None and speed != float("inf"):
            # The market ends by its own time, so that two runs with one seed see the same ticks.
            arguments += ["--market-time", f"{FAST_FORWARD_S[schema] + duration_s * speed:g}s"]
        return arguments


def environment(config: Config, exchange: Exchange, features_dir: str, archive_dir: str) -> dict[str, str]:
    """Environment variables of the processes of a run: the addresses of each other, and the folders."""
    settings = {
        "VOLCAST_GATEWAY__SERVER": reachable(config.server.host, config.server.port),
        "VOLCAST_WORKER__SERVER": reachable(config.server.host, config.server.port),
        "VOLCAST_WORKER__PARQUET_DIR": features_dir,
        "VOLCAST_INGEST__ARCHIVE_DIR": archive_dir,
        "VOLCAST_INGEST__BACKLOG_DIR": "",  # the broker ends with the run, and nothing would take the backlog
        # The parts that call the server and the gateway end before them.
        "VOLCAST_SERVER__LAME_DUCK_S": "0",
        "VOLCAST_GATEWAY__LAME_DUCK_S": "0",
        "VOLCAST_LOG__FORMAT": "json",
    }
    # Our own exchange, simulated or replayed, uses Coinbase's protocol.
    settings["VOLCAST_INGEST__VENUE"] = exchange.kind if exchange.live else CoinbaseFeed.venue
    if not exchange.live:
        # Recorded and simulated times are independent of this machine's clock.
        settings["VOLCAST_INGEST__MAX_FUTURE_S"] = "0"
    return settings


def own_kafka(config: Config, data_dir: str) -> dict[str, str]:
    """Environment variables of a run that starts Kafka itself, with its data in data_dir."""
    return {
        "VOLCAST_KAFKA__BOOTSTRAP_SERVERS": reachable(config.broker.host, config.broker.port),
        "VOLCAST_BROKER__DATA_DIR": data_dir,
    }


def own_topics(config: Config, suffix: str) -> dict[str, str]:
    """Environment variables of a run with topics and a group of its own on an existing Kafka.

    A simulated market and a recording have the same event times in each run: after the ticks of an earlier run, all
    ticks would be late.
    """
    names = msgspec.structs.asdict(config.kafka.topics)
    topics = {f"VOLCAST_KAFKA__TOPICS__{role.upper()}": f"{name}{suffix}" for role, name in names.items()}
    return {**topics, "VOLCAST_WORKER__GROUP_ID": f"{config.worker.group_id}{suffix}"}
