from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_FLOAT64: _ClassVar[DataType]
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_FLOAT64: DataType

class PredictRequest(_message.Message):
    __slots__ = ("model", "named", "packed", "routing_key", "spike_bps", "spike_multiple", "quantiles")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    NAMED_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    SPIKE_BPS_FIELD_NUMBER: _ClassVar[int]
    SPIKE_MULTIPLE_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    model: ModelSelector
    named: NamedRows
    packed: PackedRows
    routing_key: str
    spike_bps: float
    spike_multiple: float
    quantiles: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, model: _Optional[_Union[ModelSelector, _Mapping]] = ..., named: _Optional[_Union[NamedRows, _Mapping]] = ..., packed: _Optional[_Union[PackedRows, _Mapping]] = ..., routing_key: _Optional[str] = ..., spike_bps: _Optional[float] = ..., spike_multiple: _Optional[float] = ..., quantiles: _Optional[_Iterable[float]] = ...) -> None: ...

class ModelSelector(_message.Message):
    __slots__ = ("name", "version", "label")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    label: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., label: _Optional[str] = ...) -> None: ...

class NamedRows(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[NamedRow]
    def __init__(self, rows: _Optional[_Iterable[_Union[NamedRow, _Mapping]]] = ...) -> None: ...

class NamedRow(_message.Message):
    __slots__ = ("product_id", "event_time_ns", "features")
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    event_time_ns: int
    features: _containers.ScalarMap[str, float]
    def __init__(self, product_id: _Optional[str] = ..., event_time_ns: _Optional[int] = ..., features: _Optional[_Mapping[str, float]] = ...) -> None: ...

class PackedRows(_message.Message):
    __slots__ = ("schema_hash", "data_type", "row_count", "values", "event_times_ns", "product_ids")
    SCHEMA_HASH_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIMES_NS_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_IDS_FIELD_NUMBER: _ClassVar[int]
    schema_hash: str
    data_type: DataType
    row_count: int
    values: bytes
    event_times_ns: _containers.RepeatedScalarFieldContainer[int]
    product_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, schema_hash: _Optional[str] = ..., data_type: _Optional[_Union[DataType, str]] = ..., row_count: _Optional[int] = ..., values: _Optional[bytes] = ..., event_times_ns: _Optional[_Iterable[int]] = ..., product_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("model_name", "model_version", "threshold", "probabilities", "queue_ns", "compute_ns", "spike_bps", "median_bps", "quantile_bps", "base_rate")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_NS_FIELD_NUMBER: _ClassVar[int]
    SPIKE_BPS_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_BPS_FIELD_NUMBER: _ClassVar[int]
    QUANTILE_BPS_FIELD_NUMBER: _ClassVar[int]
    BASE_RATE_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    threshold: float
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    queue_ns: int
    compute_ns: int
    spike_bps: float
    median_bps: _containers.RepeatedScalarFieldContainer[float]
    quantile_bps: _containers.RepeatedScalarFieldContainer[float]
    base_rate: float
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., threshold: _Optional[float] = ..., probabilities: _Optional[_Iterable[float]] = ..., queue_ns: _Optional[int] = ..., compute_ns: _Optional[int] = ..., spike_bps: _Optional[float] = ..., median_bps: _Optional[_Iterable[float]] = ..., quantile_bps: _Optional[_Iterable[float]] = ..., base_rate: _Optional[float] = ...) -> None: ...

class StreamPredictRequest(_message.Message):
    __slots__ = ("frame_id", "request")
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    frame_id: int
    request: PredictRequest
    def __init__(self, frame_id: _Optional[int] = ..., request: _Optional[_Union[PredictRequest, _Mapping]] = ...) -> None: ...

class StreamPredictResponse(_message.Message):
    __slots__ = ("frame_id", "response", "error")
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    frame_id: int
    response: PredictResponse
    error: _status_pb2.Status
    def __init__(self, frame_id: _Optional[int] = ..., response: _Optional[_Union[PredictResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthResponse(_message.Message):
    __slots__ = ("ready", "models", "default_model", "uptime_s", "build", "front")
    READY_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_MODEL_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    BUILD_FIELD_NUMBER: _ClassVar[int]
    FRONT_FIELD_NUMBER: _ClassVar[int]
    ready: bool
    models: _containers.RepeatedCompositeFieldContainer[ModelStatus]
    default_model: str
    uptime_s: float
    build: str
    front: str
    def __init__(self, ready: _Optional[bool] = ..., models: _Optional[_Iterable[_Union[ModelStatus, _Mapping]]] = ..., default_model: _Optional[str] = ..., uptime_s: _Optional[float] = ..., build: _Optional[str] = ..., front: _Optional[str] = ...) -> None: ...

class ModelStatus(_message.Message):
    __slots__ = ("name", "version", "labels", "ready", "schema_name", "schema_hash", "features", "threshold", "load_error", "spike_bps", "takes_spike_multiple")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_NAME_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_HASH_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    LOAD_ERROR_FIELD_NUMBER: _ClassVar[int]
    SPIKE_BPS_FIELD_NUMBER: _ClassVar[int]
    TAKES_SPIKE_MULTIPLE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    ready: bool
    schema_name: str
    schema_hash: str
    features: _containers.RepeatedCompositeFieldContainer[FeatureSpec]
    threshold: float
    load_error: str
    spike_bps: float
    takes_spike_multiple: bool
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., ready: _Optional[bool] = ..., schema_name: _Optional[str] = ..., schema_hash: _Optional[str] = ..., features: _Optional[_Iterable[_Union[FeatureSpec, _Mapping]]] = ..., threshold: _Optional[float] = ..., load_error: _Optional[str] = ..., spike_bps: _Optional[float] = ..., takes_spike_multiple: _Optional[bool] = ...) -> None: ...

class FeatureSpec(_message.Message):
    __slots__ = ("name", "unit", "used", "low", "high")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    name: str
    unit: str
    used: bool
    low: float
    high: float
    def __init__(self, name: _Optional[str] = ..., unit: _Optional[str] = ..., used: _Optional[bool] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...
