"""The REST gateway: HTTP and JSON in front of an inference server, for browsers, curl and notebooks.

The gateway is a separate process and calls the server over gRPC like any other client. So the cost of HTTP never
affects callers that use gRPC directly.
"""
