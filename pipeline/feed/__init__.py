"""Exchange feeds, as cores: bytes go in, records come out. Sockets and clocks are the callers'."""
