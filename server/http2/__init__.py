"""The server side of HTTP/2 for gRPC, sans-I/O: no sockets, clock or event loop; bytes in, events and bytes out."""
