"""The Open Inference Protocol v2: `inference.GRPCInferenceService` as a table of methods, like every gRPC service."""

NOT_UNLOADED = "models are not unloaded on request: remove the bundle from the models folder"
