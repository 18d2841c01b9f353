"""The REST gateway: HTTP and JSON in front of an inference server, for browsers, curl and notebooks.

A process of its own that speaks gRPC to the server like any other client, so HTTP's cost is never on
the path of those who call the server directly.
"""
