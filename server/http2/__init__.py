"""gRPC's HTTP/2, the server's side, without sockets, clocks or an event loop: bytes in, events and bytes out."""
