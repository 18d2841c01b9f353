"""Code that the sessions share: their settings, their checks, and their report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np


class Session:
    """path: a JSON file with the addresses, the rows, and the expected probabilities."""

    def __init__(self, path: str) -> None:
        with open(path) as file:
            settings: dict[str, Any] = json.load(file)
        self.grpc: str = settings["grpc"]
        self.http: str = settings["http"]
        self.forecast_grpc: str = settings["forecast_grpc"]  # a server whose model forecasts a distribution
        self.forecast_http: str = settings["forecast_http"]
        self.model: str = settings["model"]
        self.stable: str = settings["stable"]
        self.other: str = settings["other"]
        self.messages: dict[str, dict[str, list[Any]]] = settings["messages"]
        self.rows = np.array(settings["rows"], np.float64)
        self.expected: dict[str, list[float]] = settings["expected"]
        self.done: list[str] = []

    def check(self, what: str, values: Any, version: str | None = None) -> None:
        wanted = np.array(self.expected[version or self.stable])
        assert np.shape(values) == wanted.shape, f"{what}: shape {np.shape(values)}"
        assert np.abs(np.asarray(values) - wanted).max() < 1e-9, f"{what}: {values} is not {wanted}"
        self.done.append(what)

    def true(self, what: str, condition: Any) -> None:
        assert condition, what
        self.done.append(what)

    @contextmanager
    def refused(self, what: str, kind: type[Exception], *words: str) -> Iterator[None]:
        text = None
        try:
            yield
        except kind as error:
            text = str(error)
        assert text is not None, f"{what}: not refused"
        self.true(f"{what} is refused", all(word in text for word in words))

    def same_contract(self, descriptor: Any, ignored: Sequence[str] = ()) -> None:
        """Names, numbers and types of every message that both sides have."""
        shared = 0
        for name, message in walk(descriptor.message_types_by_name.values()):
            ours = self.messages.get(name)
            if ours is None or name in ignored:
                continue
            shared += 1
            for field in message.fields:
                theirs = [field.name, field.type, field.message_type.full_name if field.message_type else ""]
                assert ours.get(str(field.number)) == theirs, f"{name}: {theirs} is not {ours}"
        self.true(f"{shared} messages have the same fields", shared > 15)

    def end(self) -> None:
        for what in self.done:
            print(what)


def walk(messages: Any) -> Iterator[tuple[str, Any]]:
    for message in messages:
        yield message.full_name, message
        yield from walk(message.nested_types)
