"""The native front: gRPC on this process's own event loop, without a second thread or another's server.

A burst of calls is read, parsed, run as one batch and answered on one thread: no hand-over between threads,
which is what a call costs elsewhere (docs/decisions/0008). server.http2 is the protocol; this is its socket.
"""
