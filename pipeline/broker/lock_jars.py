"""`python -m pipeline.broker.lock_jars VERSION`: resolves Apache Kafka's jars and writes jars.lock (`make lock`).

Resolves with jgo in Python; no Java and no Maven is needed.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

from pipeline.broker.jars import LOCK

# Kafka logs through slf4j 1.7: this binding writes to standard error.
LOG_BINDING = ("org.slf4j", "slf4j-simple", "1.7.36")


def main(version: str) -> None:
    from jgo.maven import MavenContext, Model

    with tempfile.TemporaryDirectory() as folder:
        context = MavenContext(repo_cache=Path(folder))
        kafka = context.project("org.apache.kafka", "kafka_2.13").at_version(version)
        group, name, binding_version = LOG_BINDING
        binding = context.project(group, name).at_version(binding_version)
        dependencies, _ = Model(kafka.pom(), context).dependencies()
        artifacts = [kafka.artifact(), binding.artifact(), *(dependency.artifact for dependency in dependencies)]
        lines = [
            f"{artifact.groupId}:{artifact.artifactId}:{artifact.version} "
            f"sha256:{hashlib.sha256(Path(artifact.resolve()).read_bytes()).hexdigest()}"
            for artifact in artifacts
        ]
    LOCK.write_text(
        "\n".join(["# Jars of Apache Kafka, without addresses. Written by `make lock`.", *sorted(lines), ""])
    )
    print(f"{LOCK.name}: {len(lines)} jars of Apache Kafka {version}")


if __name__ == "__main__":
    main(sys.argv[1])
