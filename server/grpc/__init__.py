"""The gRPC door: `grpc.aio` on uvloop. Translates, calls the data plane, translates back."""
