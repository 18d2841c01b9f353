"""The frames of HTTP/2, for server and client."""
