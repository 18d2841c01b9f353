"""Bad input by the million: decoders in this process, both fronts over sockets, a well-formed caller beside them."""
