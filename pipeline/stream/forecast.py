"""Warm rows to the inference server, and their predictions back, in order.

Several frames are in flight, so the server computes while the worker encodes. Nothing here waits longer than the
caller allows. If the server does not answer, rows wait in order; they are sent again after 0.1 to 5 s. Beyond
`limit_rows` the oldest that wait become predictions marked missing, so a long outage costs predictions, and never
features or memory.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, Unpack

import numpy as np
from numpy.typing import NDArray

from clients.requests import Query
from common.errors import DeadlineError, RequestError, UsageError, VolcastError
from common.log import get_logger
from common.rpc_status import from_status
from volcast.v1 import MissingReason, ModelSelector, Prediction, PredictResponse, StreamPredictResponse

MIN_RETRY_S = 0.1
MAX_RETRY_S = 5.0
# Waiting rows are joined into frames of up to so many. Live ticks arrive one by one, and a backlog of frames of
# single rows would take a round trip each.
JOINED_ROWS = 1024
# Frames that the server has and has not answered. Two keep it busy; more only grow the wait after a failure.
MAX_FRAMES_IN_FLIGHT = 2
_KEYS = ("spike_bps", "quantiles")  # fields of a request, and keys of section worker


class AnswerStream(Protocol):
    """A prediction stream that never makes its caller wait longer than asked: clients.sync.PredictStream."""

    def send_packed(
        self,
        frame_id: int,
        values: memoryview,
        row_count: int,
        schema_hash: str,
        model: ModelSelector | None,
        **query: Unpack[Query],
    ) -> None: ...

    def poll(self, timeout_s: float) -> StreamPredictResponse | None:
        """The next answer; None if none arrives in time. Raises VolcastError: all unanswered frames are lost."""
        ...

    def close(self) -> None:
        """Drops unanswered frames. The next frame opens a new call."""
        ...


@dataclass(frozen=True, slots=True)
class Rows:
    """n warm rows of one or more partitions, in order within each."""

    product: NDArray[np.int32]  # (n,) codes of the caller
    partition: NDArray[np.int32]  # (n,) of ticks.raw
    offset: NDArray[np.int64]  # (n,) there
    event_time_ns: NDArray[np.int64]  # (n,)
    ingest_time_ns: NDArray[np.int64]  # (n,)
    sequence_num: NDArray[np.int64]  # (n,)
    bid: NDArray[np.float64]  # (n,)
    ask: NDArray[np.float64]  # (n,)
    imbalance: NDArray[np.float64]  # (n,)
    values: NDArray[np.float64]  # (n, features), C-contiguous
    read_ns: NDArray[np.int64]  # (n,), wall clock: read from Kafka
    computed_ns: NDArray[np.int64]  # (n,), wall clock: features computed

    def __len__(self) -> int:
        return len(self.product)

    def followed_by(self, later: Rows) -> Rows:
        return Rows(*(np.concatenate([getattr(self, name), getattr(later, name)]) for name in _COLUMNS))

    def select(self, mask: NDArray[np.bool_]) -> Rows:
        return self if mask.all() else Rows(*(getattr(self, name)[mask] for name in _COLUMNS))


_COLUMNS = tuple(column.name for column in fields(Rows))


_NONE: NDArray[np.float64] = np.zeros(0)
_NO_QUANTILES: NDArray[np.float64] = np.zeros((0, 0))


@dataclass(frozen=True, slots=True)
class Forecast:
    """What became of rows: the answer, or the reason why there is none."""

    rows: Rows
    probabilities: NDArray[np.float64]  # (n,); empty without an answer
    response: PredictResponse | None
    missing: MissingReason
    answered_ns: int
    levels: tuple[float, ...] | None = None  # of the quantiles; None: the model forecasts no distribution
    median_bps: NDArray[np.float64] = field(default_factory=lambda: _NONE)  # (n,); empty without a distribution
    quantile_bps: NDArray[np.float64] = field(default_factory=lambda: _NO_QUANTILES)  # (n, levels), or (0, 0)

    def distribution(self, chosen: Any) -> dict[str, Any]:
        """The columns of codec.predictions that describe the distribution. chosen: index of the rows."""
        if self.response is None or self.levels is None:
            return {}
        columns = {
            "spike_bps": self.response.spike_bps,
            "median_bps": self.median_bps[chosen],
            "base_rate": self.response.base_rate,
        }
        return columns | ({"quantile_bps": self.quantile_bps[chosen]} if self.levels else {})

    def select(self, mask: NDArray[np.bool_]) -> Forecast:
        """mask: (n,) of the rows that stay."""
        kept = {name: values[mask] for name in _ANSWERS if len(values := getattr(self, name))}
        return replace(self, rows=self.rows.select(mask), **kept)

    def missing_prediction(self, row: int, venue: str, product_id: str) -> Prediction:
        """The record of a row without a probability."""
        rows = self.rows
        return Prediction(
            product_id=product_id,
            event_time_ns=int(rows.event_time_ns[row]),
            sequence_num=int(rows.sequence_num[row]),
            latency_ns=self.answered_ns - int(rows.ingest_time_ns[row]),
            missing_reason=self.missing,
            source_partition=int(rows.partition[row]),
            source_offset=int(rows.offset[row]),
            venue=venue,
            bid=float(rows.bid[row]),
            ask=float(rows.ask[row]),
            imbalance=float(rows.imbalance[row]),
        )


_ANSWERS = ("probabilities", "median_bps", "quantile_bps")


@dataclass(frozen=True, slots=True)
class Owed:
    """Where a partition's rows without prediction begin."""

    offset: int
    since_ns: int  # wall clock when its features were computed


@dataclass(slots=True)
class _Frame:
    frame_id: int
    rows: Rows
    sent_s: float
    dropped: set[int]  # partitions that now belong to another worker


class Forecaster:
    """Sends rows over one StreamPredict stream, in order, and keeps what is not answered.

    model: the requested name; empty: the server's default. spike_bps, quantiles: of every frame; 0 and empty: the
    model's default size, no quantiles.
    """

    def __init__(
        self,
        stream: AnswerStream,
        schema_hash: str,
        *,
        limit_rows: int,
        timeout_s: float,
        model: str = "",
        spike_bps: float = 0.0,
        quantiles: tuple[float, ...] = (),
    ) -> None:
        self._stream = stream
        self._schema_hash = schema_hash
        self._model = ModelSelector(name=model) if model else None
        self._query = Query(spike_bps=spike_bps, quantiles=quantiles) if spike_bps or quantiles else Query()
        self._levels = quantiles
        self._limit_rows = limit_rows
        self._timeout_s = timeout_s
        # In the order of the rows: frames in flight, rows to be marked missing behind them, rows that wait.
        self._flight: deque[_Frame] = deque()
        self._given_up: deque[Rows] = deque()
        self._waiting: deque[Rows] = deque()
        self._next_frame_id = 1
        self._retry_at_s = 0.0
        self._retry_wait_s = MIN_RETRY_S
        self._has_answered = False
        self.backlog_rows = 0  # not settled

    @property
    def in_flight(self) -> int:
        """Frames that the server has not answered yet."""
        return len(self._flight)

    @property
    def is_answering(self) -> bool:
        """False after a failure, until the next answer."""
        return self._retry_wait_s == MIN_RETRY_S

    @property
    def is_full(self) -> bool:
        """Whether further rows would wait for an answer."""
        return bool(self._waiting) or len(self._flight) >= MAX_FRAMES_IN_FLIGHT

    def submit(self, rows: Rows) -> None:
        """Takes rows and sends them if the server keeps up."""
        if not len(rows):
            return
        if self._waiting and len(self._waiting[-1]) + len(rows) <= JOINED_ROWS:
            self._waiting.append(self._waiting.pop().followed_by(rows))
        else:
            self._waiting.append(rows)
        self.backlog_rows += len(rows)
        self._send()

    def settle(self, wait_s: float = 0.0) -> list[Forecast]:
        """What is settled, in the order of the rows; waits up to `wait_s` for frames in flight."""
        settled: list[Forecast] = []
        deadline_s = time.monotonic() + wait_s
        self._send()
        while self._flight:
            try:
                answer = self._stream.poll(max(0.0, deadline_s - time.monotonic()))
            except VolcastError as error:
                self._back_off(error)
                break
            if answer is None:
                if time.monotonic() - self._flight[0].sent_s >= self._timeout_s:
                    self._stream.close()
                    line = f"no answer of the inference server within {self._timeout_s:g} s"
                    self._back_off(DeadlineError(line))
                break
            if answer.frame_id == self._flight[0].frame_id:  # else the answer to a frame that was sent again
                self._take(answer, settled)
                self._settle_given_up(settled)
                self._send()
        self._give_up()
        self._settle_given_up(settled)
        return settled

    def first_owed(self) -> dict[int, Owed]:
        """Partition -> its first row that is not settled."""
        first: dict[int, Owed] = {}
        for frame in self._flight:
            _note_first(first, frame.rows, frame.dropped)
        for rows in (*self._given_up, *self._waiting):
            _note_first(first, rows, frozenset())
        return first

    def drop(self, partitions: set[int]) -> None:
        """Forgets rows of partitions that now belong to another worker."""
        for frame in self._flight:
            self.backlog_rows -= _count(frame.rows, partitions - frame.dropped)
            frame.dropped |= partitions
        self._given_up = self._without(self._given_up, partitions)
        self._waiting = self._without(self._waiting, partitions)

    def _without(self, queue: deque[Rows], partitions: set[int]) -> deque[Rows]:
        kept = [rows.select(~_of(rows, partitions)) for rows in queue]
        self.backlog_rows -= sum(map(len, queue)) - sum(map(len, kept))
        return deque(rows for rows in kept if len(rows))

    def _send(self) -> None:
        # After a failure a single frame finds out whether the server is back.
        limit = MAX_FRAMES_IN_FLIGHT if self.is_answering else 1
        if self._given_up:
            return  # they come first, when the frames in flight are answered
        while self._waiting and len(self._flight) < limit and time.monotonic() >= self._retry_at_s:
            rows = self._waiting.popleft()
            frame = _Frame(self._next_frame_id, rows, time.monotonic(), set())
            self._next_frame_id += 1
            self._flight.append(frame)
            try:
                self._stream.send_packed(
                    frame.frame_id, rows.values.data, len(rows), self._schema_hash, self._model, **self._query
                )
            except VolcastError as error:
                self._back_off(error)

    def _take(self, answer: StreamPredictResponse, settled: list[Forecast]) -> None:
        """Settles the oldest frame, unless the server could not answer it now."""
        rows = self._flight[0].rows
        if answer.HasField("error"):
            error = from_status(answer.error, "inference server")
            if isinstance(error, RequestError) and _is_about_query(error):
                # Every row would be refused, until the model or the configuration is another. If that is so from the
                # start, the worker ends; if the model was swapped, the rows wait.
                if not self._has_answered:
                    raise refused_query(error)
                self._back_off(error)
                return
            if not isinstance(error, RequestError):
                self._back_off(error)
                return
            forecast = self._refused(rows, str(error))
        else:
            forecast = self._answered(rows, answer.response)
            self._has_answered = True
        frame = self._flight.popleft()
        if self._retry_wait_s > MIN_RETRY_S:
            get_logger().info("inference server is back", backlog_rows=self.backlog_rows)
        self._retry_wait_s, self._retry_at_s = MIN_RETRY_S, 0.0
        self._settle(forecast, frame.dropped, settled)

    def _settle(self, forecast: Forecast, dropped: set[int], settled: list[Forecast]) -> None:
        if dropped:
            forecast = forecast.select(~_of(forecast.rows, dropped))
        self.backlog_rows -= len(forecast.rows)
        if len(forecast.rows):
            settled.append(forecast)

    def _answered(self, rows: Rows, response: PredictResponse) -> Forecast:
        """The forecast of a response. If it does not have a value for each row, the rows are refused."""
        count, levels = len(rows), len(self._levels)
        probabilities, medians = np.array(response.probabilities), np.array(response.median_bps)
        quantiles = np.array(response.quantile_bps)
        if len(probabilities) != count:
            return self._refused(rows, f"{len(probabilities)} probabilities came back for {count} rows")
        unspecified = MissingReason.MISSING_REASON_UNSPECIFIED
        if not len(medians) and not self._query:
            return Forecast(rows, probabilities, response, unspecified, time.time_ns())
        if (len(medians), len(quantiles)) != (count, count * levels):
            came = f"{len(medians)} medians and {len(quantiles)} quantiles came back"
            return self._refused(rows, f"{came} for {count} rows at {levels} levels")
        quantiles = quantiles.reshape(count, levels)
        return Forecast(rows, probabilities, response, unspecified, time.time_ns(), self._levels, medians, quantiles)

    def _refused(self, rows: Rows, why: str) -> Forecast:
        get_logger().error("rows refused", rows=len(rows), error=why)
        return missing(rows, MissingReason.MISSING_REASON_REFUSED)

    def _back_off(self, error: VolcastError) -> None:
        if self._retry_wait_s == MIN_RETRY_S:
            get_logger().warning("inference server does not answer, rows wait", error=str(error))
        self._retry_at_s = time.monotonic() + self._retry_wait_s
        self._retry_wait_s = min(self._retry_wait_s * 2, MAX_RETRY_S)
        self._take_back()

    def _take_back(self) -> None:
        """Puts the frames in flight back in front, to be sent again. Late answers to them are ignored."""
        while self._given_up:
            self._waiting.appendleft(self._given_up.pop())
        while self._flight:
            frame = self._flight.pop()
            rows = frame.rows.select(~_of(frame.rows, frame.dropped))
            if len(rows):
                self._waiting.appendleft(rows)

    def _give_up(self) -> None:
        """Gives up the oldest waiting rows while there are too many. What is in flight is not sent in vain."""
        excess = self.backlog_rows - sum(map(len, self._given_up)) - self._limit_rows
        while excess > 0 and self._waiting:
            rows = self._waiting.popleft()
            excess -= len(rows)
            self._given_up.append(rows)

    def _settle_given_up(self, settled: list[Forecast]) -> None:
        """Marks rows missing, once all rows before them are settled."""
        while self._given_up and not self._flight:
            rows = self._given_up.popleft()
            self.backlog_rows -= len(rows)
            settled.append(missing(rows, MissingReason.MISSING_REASON_SERVER_UNAVAILABLE))


def _is_about_query(error: RequestError) -> bool:
    return any(fault.field.partition("[")[0] in _KEYS for fault in error.violations)


def refused_query(error: RequestError) -> UsageError:
    """The error of a worker whose configuration the model refuses: keys instead of the fields of a request."""
    faults = [f"worker.{fault.field}: {fault.description}" for fault in error.violations]
    return UsageError("; ".join(faults))


def missing(rows: Rows, reason: MissingReason) -> Forecast:
    return Forecast(rows, np.zeros(0), None, reason, time.time_ns())


def _of(rows: Rows, partitions: set[int]) -> NDArray[np.bool_]:
    """Which rows (n,) are of these partitions."""
    return np.isin(rows.partition, list(partitions))


def _count(rows: Rows, partitions: set[int]) -> int:
    return int(_of(rows, partitions).sum())


def _note_first(first: dict[int, Owed], rows: Rows, dropped: set[int] | frozenset[int]) -> None:
    partitions, at = np.unique(rows.partition, return_index=True)
    for partition, index in zip(partitions.tolist(), at.tolist(), strict=True):
        if partition not in dropped and partition not in first:
            first[partition] = Owed(int(rows.offset[index]), int(rows.computed_ns[index]))
