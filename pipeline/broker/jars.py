"""The jars of Apache Kafka: named with their SHA-256 in jars.lock, fetched once, verified at each start.

jars.lock holds no addresses. The jars come from Maven Central, or from the mirror in `broker.maven_repository`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common.errors import UnavailableError

LOCK = Path(__file__).with_name("jars.lock")
PARALLEL_DOWNLOADS = 8
DOWNLOAD_TIMEOUT_S = 30  # of one request
MAX_REASON_CHARS = 200


class JarsUnavailableError(UnavailableError):
    """The jars are not in the cache and cannot be fetched."""


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the lock file: Maven coordinates and the hash of the file."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    def matches(self, path: Path) -> bool:
        """Whether the file exists and has the hash of the lock."""
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        except FileNotFoundError:
            return False


def read_lock(path: Path = LOCK) -> tuple[Jar, ...]:
    return tuple(_parse(line) for line in path.read_text().splitlines() if line and not line.startswith("#"))


def _parse(line: str) -> Jar:
    coordinates, digest = line.split()
    group, artifact, version = coordinates.split(":")
    return Jar(group, artifact, version, digest.removeprefix("sha256:"))


def kafka_version(jars: tuple[Jar, ...]) -> str:
    return next(jar.version for jar in jars if jar.artifact == "kafka-clients")


def cache_dir() -> Path:
    """The user's cache folder of Kafka's jars."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "volcast" / "kafka"


def missing_jars(folder: Path, jars: tuple[Jar, ...]) -> list[Jar]:
    """The jars that the folder lacks, or holds with another hash. Hashing all 45 takes 0.1 s."""
    return [jar for jar in jars if not jar.matches(folder / jar.filename)]


def fetch(jars: list[Jar], folder: Path, repository: str = "") -> None:
    """Downloads jars into the folder, each only if its hash is right.

    repository: the address of a Maven repository; empty: Maven Central.

    Raises JarsUnavailableError if a jar cannot be downloaded or stored, or has another hash.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # In the same folder, so that a verified file moves into place in one step.
        with (
            tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as new,
            ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool,
        ):
            for done in [pool.submit(_fetch_jar, jar, Path(new), folder, repository) for jar in jars]:
                done.result()
    except (OSError, RuntimeError, ModuleNotFoundError) as error:
        # Errors of requests are kinds of OSError. jgo raises RuntimeError if a repository lacks the jar.
        raise _unavailable(_first_cause(error)) from None


def _first_cause(error: BaseException) -> str:
    """The innermost reason, such as "[Errno 111] Connection refused", without the layers of the HTTP client."""
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(str(error).split())[:MAX_REASON_CHARS]


def _fetch_jar(jar: Jar, new: Path, folder: Path, repository: str) -> None:
    from jgo.maven import MavenContext  # 0.2 s, and only the first start needs it

    logging.getLogger("jgo").setLevel(
        logging.ERROR
    )  # its warnings are about unverified jars; the lock file verifies them
    context = MavenContext(
        repo_cache=new,
        local_repos=[],
        remote_repos={"repository": repository.rstrip("/")} if repository else None,
        timeout=DOWNLOAD_TIMEOUT_S,
    )
    arrived = Path(context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve())
    if not jar.matches(arrived):
        raise RuntimeError(f"{jar.filename} does not have the SHA-256 of jars.lock")
    arrived.replace(folder / jar.filename)


def _unavailable(reason: str) -> JarsUnavailableError:
    return JarsUnavailableError(
        f"broker: Apache Kafka's jars cannot be fetched ({reason}); set broker.maven_repository to a Maven "
        "mirror, or kafka.bootstrap_servers to a running Kafka"
    )


def ensure_jars(repository: str = "", folder: Path | None = None) -> list[Path]:
    """The paths of all jars, verified; fetches those that the cache lacks.

    Raises JarsUnavailableError as `fetch` does.
    """
    folder, jars = folder or cache_dir(), read_lock()
    missing = missing_jars(folder, jars)
    if missing:
        fetch(missing, folder, repository)
    return [folder / jar.filename for jar in jars]
