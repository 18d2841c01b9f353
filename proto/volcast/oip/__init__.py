"""The Open Inference Protocol, beside our own contract."""
