"""Large messages take turns, so that a burst of them does not block the event loop."""

from __future__ import annotations

import asyncio

LARGE_BYTES = 256 * 1024  # of a message, decompressed: parsing it takes up to some milliseconds


class LargeMessages:
    """grpc-core decompresses in its own threads and hands over many messages at once."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def turn(self, raw: bytes) -> None:
        """Returns at once for a small message; for a large one, in a turn of the loop without another large one."""
        if len(raw) > LARGE_BYTES:
            async with self._lock:
                await asyncio.sleep(0)
