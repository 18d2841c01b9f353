"""The contract: messages and services of volcast.v1, generated from the .proto files beside this one."""

from volcast.v1.inference_pb2 import (
    DATA_TYPE_FLOAT32,
    DATA_TYPE_FLOAT64,
    DATA_TYPE_UNSPECIFIED,
    DataType,
    FeatureSpec,
    HealthRequest,
    HealthResponse,
    ModelSelector,
    ModelStatus,
    NamedRow,
    NamedRows,
    PackedRows,
    PredictRequest,
    PredictResponse,
    StreamPredictRequest,
    StreamPredictResponse,
)
from volcast.v1.stream_pb2 import FeatureRow, MissingReason, Prediction

__all__ = [
    "DATA_TYPE_FLOAT32",
    "DATA_TYPE_FLOAT64",
    "DATA_TYPE_UNSPECIFIED",
    "DataType",
    "FeatureRow",
    "FeatureSpec",
    "HealthRequest",
    "HealthResponse",
    "MissingReason",
    "ModelSelector",
    "ModelStatus",
    "NamedRow",
    "NamedRows",
    "PackedRows",
    "PredictRequest",
    "PredictResponse",
    "Prediction",
    "StreamPredictRequest",
    "StreamPredictResponse",
]
