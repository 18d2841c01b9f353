"""The header line of an archive file.

`{"volcast_archive":1,"venue":"coinbase","products":["BTC-USD"],"connection":"1775428513865365000","lost_messages":0}`

A header is the first line of a file. It comes again inside a file if a new connection begins there, or if messages
before it are missing because the disk was full. Readers ignore keys that they do not know.
"""

from __future__ import annotations

import msgspec

FORMAT = 1
START = b'{"volcast_archive":'


class Header(msgspec.Struct, frozen=True, kw_only=True):
    volcast_archive: int = FORMAT
    venue: str = "coinbase"
    products: tuple[str, ...] = ()
    connection: str = ""  # equal in all files of one connection; "": unknown
    lost_messages: int = 0  # of this connection or earlier ones, directly before this line

    def line(self) -> bytes:
        return msgspec.json.encode(self) + b"\n"


_decode = msgspec.json.Decoder(Header).decode


def parse_header(line: bytes) -> Header | None:
    """The header on a line; None for any other line."""
    if not line.startswith(START):
        return None
    try:
        return _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
