"""The Open Inference Protocol v2: `inference.GRPCInferenceService` as a table of methods, like every gRPC door."""
