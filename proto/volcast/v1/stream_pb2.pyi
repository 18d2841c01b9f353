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
MISSING_REASON_UNSPECIFIED: MissingReason
MISSING_REASON_SERVER_UNAVAILABLE: MissingReason
MISSING_REASON_REFUSED: MissingReason

class FeatureRow(_message.Message):
    __slots__ = ("product_id", "event_time_ns", "ingest_time_ns", "sequence_num", "schema_hash", "values", "warm")
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    INGEST_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUM_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_HASH_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    WARM_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    event_time_ns: int
    ingest_time_ns: int
    sequence_num: int
    schema_hash: str
    values: _containers.RepeatedScalarFieldContainer[float]
    warm: bool
    def __init__(self, product_id: _Optional[str] = ..., event_time_ns: _Optional[int] = ..., ingest_time_ns: _Optional[int] = ..., sequence_num: _Optional[int] = ..., schema_hash: _Optional[str] = ..., values: _Optional[_Iterable[float]] = ..., warm: _Optional[bool] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("product_id", "event_time_ns", "sequence_num", "model_name", "model_version", "probability", "threshold", "latency_ns", "missing_reason")
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUM_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    LATENCY_NS_FIELD_NUMBER: _ClassVar[int]
    MISSING_REASON_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    event_time_ns: int
    sequence_num: int
    model_name: str
    model_version: str
    probability: float
    threshold: float
    latency_ns: int
    missing_reason: MissingReason
    def __init__(self, product_id: _Optional[str] = ..., event_time_ns: _Optional[int] = ..., sequence_num: _Optional[int] = ..., model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., probability: _Optional[float] = ..., threshold: _Optional[float] = ..., latency_ns: _Optional[int] = ..., missing_reason: _Optional[_Union[MissingReason, str]] = ...) -> None: ...
