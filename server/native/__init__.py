"""The native front: gRPC on this process's own event loop, without a second thread or another server's library.

One thread reads, parses, scores and answers calls: a call never waits for a hand-over between threads, which is the
main cost of a call in other servers (docs/decisions/0008). `server.http2` is the protocol; this package adds sockets.

From the bottom up: `serving` (shared by all calls), `connection` (one socket), `unary`, `scoring_stream`, `streaming`
(one module per kind of call), `dispatch` (which module takes a call), `front` (listens and drains).
"""
