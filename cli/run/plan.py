"""The plan of a run: the exchange, and the settings by which the processes find each other."""

from __future__ import annotations

from dataclasses import dataclass

from common.config import Config, reachable
from common.errors import UsageError
from pipeline.archive import expand_paths
from pipeline.feed.venues import FEEDS

# A simulated market sends its first minutes at once, so that windows are warm from the start: the longest window of
# each schema, in seconds. Importing the engine for these numbers would import numba, which takes a second.
FAST_FORWARD_S = {"core/1": 60.0, "full/1": 300.0}


# The embedded broker answers an empty fetch after half of its wait. But it looks through all of a topic's
# batches for each fetch, and answers nothing once that takes longer: measured, 5 ms last for 11,000 ticks that
# come one by one, after which the worker reads nothing more (docs/decisions/0001-embedded-broker.md).
FETCH_WAIT_MS = 50
SHORT_FETCH_WAIT_MS = 5
SHORT_MARKET_S = 120.0


def fetch_wait_ms(duration_s: float | None, speed: float) -> int:
    """The fetch wait for consumers of the embedded broker: short if the run is known to be short."""
    short = duration_s is not None and duration_s * speed <= SHORT_MARKET_S
    return SHORT_FETCH_WAIT_MS if short else FETCH_WAIT_MS


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
        """Raises InputError if the recording does not exist, before any process starts."""
        if self.kind == "replay":
            expand_paths(self.recording)

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
    """Environment variables of the processes of a run: the addresses of each other, and settings for the broker."""
    settings = {
        "VOLCAST_KAFKA__BOOTSTRAP_SERVERS": reachable(config.broker.host, config.broker.port),
        "VOLCAST_KAFKA__FETCH_WAIT_MS": str(FETCH_WAIT_MS),
        # The embedded broker answers a group's first join after half of this time.
        "VOLCAST_KAFKA__SESSION_TIMEOUT_MS": "2000",
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
    settings["VOLCAST_INGEST__VENUE"] = exchange.kind if exchange.live else "coinbase"
    if not exchange.live:
        # Recorded and simulated times are independent of this machine's clock.
        settings["VOLCAST_INGEST__MAX_FUTURE_S"] = "0"
    return settings
