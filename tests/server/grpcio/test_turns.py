"""Large messages on the grpcio front."""

from __future__ import annotations

import asyncio

from server.grpcio.turns import LARGE_BYTES, LargeMessages


async def test_at_most_one_large_message_goes_on_in_a_turn_of_the_loop() -> None:
    messages, done = LargeMessages(), 0

    async def handle() -> None:
        nonlocal done
        await messages.turn(bytes(LARGE_BYTES + 1))
        done += 1

    tasks = [asyncio.ensure_future(handle()) for _ in range(10)]
    most = before = 0
    for _ in range(100):
        await asyncio.sleep(0)
        most, before = max(most, done - before), done
    assert done == 10
    assert most == 1
    await asyncio.gather(*tasks)


async def test_a_small_message_does_not_wait() -> None:
    messages = LargeMessages()
    large = asyncio.ensure_future(messages.turn(bytes(LARGE_BYTES + 1)))
    await asyncio.sleep(0)
    await messages.turn(bytes(LARGE_BYTES))
    assert not large.done()
    await large
