from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MissingReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MISSING_REASON_UNSPECIFIED: _ClassVar[MissingReason]
    MISSING_REASON_SERVER_UNAVAILABLE: _ClassVar[MissingReason]
    MISSING_REASON_REFUSED: _ClassVar[MissingReason]
    MISSING_REASON_SCHEMA_CHANGED: _ClassVar[MissingReason]
MISSING_REASON_UNSPECIFIED: MissingReason
MISSING_REASON_SERVER_UNAVAILABLE: MissingReason
MISSING_REASON_REFUSED: MissingReason
MISSING_REASON_SCHEMA_CHANGED: MissingReason

class FeatureRow(_message.Message):
    __slots__ = ("product_id", "event_time_ns", "ingest_time_ns", "sequence_num", "schema_hash", "values", "warm", "source_partition", "source_offset", "venue", "bid", "ask", "imbalance")
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    INGEST_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUM_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_HASH_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    WARM_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PARTITION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_OFFSET_FIELD_NUMBER: _ClassVar[int]
    VENUE_FIELD_NUMBER: _ClassVar[int]
    BID_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    IMBALANCE_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    event_time_ns: int
    ingest_time_ns: int
    sequence_num: int
    schema_hash: str
    values: _containers.RepeatedScalarFieldContainer[float]
    warm: bool
    source_partition: int
    source_offset: int
    venue: str
    bid: float
    ask: float
    imbalance: float
    def __init__(self, product_id: _Optional[str] = ..., event_time_ns: _Optional[int] = ..., ingest_time_ns: _Optional[int] = ..., sequence_num: _Optional[int] = ..., schema_hash: _Optional[str] = ..., values: _Optional[_Iterable[float]] = ..., warm: _Optional[bool] = ..., source_partition: _Optional[int] = ..., source_offset: _Optional[int] = ..., venue: _Optional[str] = ..., bid: _Optional[float] = ..., ask: _Optional[float] = ..., imbalance: _Optional[float] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("product_id", "event_time_ns", "sequence_num", "model_name", "model_version", "probability", "threshold", "latency_ns", "missing_reason", "source_partition", "source_offset", "venue", "bid", "ask", "imbalance", "spike_bps", "median_bps", "quantile_levels", "quantile_bps", "base_rate")
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUM_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    LATENCY_NS_FIELD_NUMBER: _ClassVar[int]
    MISSING_REASON_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PARTITION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_OFFSET_FIELD_NUMBER: _ClassVar[int]
    VENUE_FIELD_NUMBER: _ClassVar[int]
    BID_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    IMBALANCE_FIELD_NUMBER: _ClassVar[int]
    SPIKE_BPS_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_BPS_FIELD_NUMBER: _ClassVar[int]
    QUANTILE_LEVELS_FIELD_NUMBER: _ClassVar[int]
    QUANTILE_BPS_FIELD_NUMBER: _ClassVar[int]
    BASE_RATE_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    event_time_ns: int
    sequence_num: int
    model_name: str
    model_version: str
    probability: float
    threshold: float
    latency_ns: int
    missing_reason: MissingReason
    source_partition: int
    source_offset: int
    venue: str
    bid: float
    ask: float
    imbalance: float
    spike_bps: float
    median_bps: float
    quantile_levels: _containers.RepeatedScalarFieldContainer[float]
    quantile_bps: _containers.RepeatedScalarFieldContainer[float]
    base_rate: float
    def __init__(self, product_id: _Optional[str] = ..., event_time_ns: _Optional[int] = ..., sequence_num: _Optional[int] = ..., model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., probability: _Optional[float] = ..., threshold: _Optional[float] = ..., latency_ns: _Optional[int] = ..., missing_reason: _Optional[_Union[MissingReason, str]] = ..., source_partition: _Optional[int] = ..., source_offset: _Optional[int] = ..., venue: _Optional[str] = ..., bid: _Optional[float] = ..., ask: _Optional[float] = ..., imbalance: _Optional[float] = ..., spike_bps: _Optional[float] = ..., median_bps: _Optional[float] = ..., quantile_levels: _Optional[_Iterable[float]] = ..., quantile_bps: _Optional[_Iterable[float]] = ..., base_rate: _Optional[float] = ...) -> None: ...
