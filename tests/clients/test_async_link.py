"""The connection of the asyncio client, against servers that fail, hang or close."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from clients.aio import AsyncClient
from clients.requests import packed_request
from common.errors import DeadlineError, UnavailableError
from common.schema import CORE_1
from tests.clients.scripted import Served, scripted, target_of

REQUEST = packed_request(bytes(88), 1, CORE_1.hash)


async def ask(client: AsyncClient) -> str:
    return (await client.predict(REQUEST)).model_version


def test_many_calls_share_a_connection_on_either_loop() -> None:
    numbers = []

    def script(connection: socket.socket, number: int) -> None:
        numbers.append(number)
        Served(connection).respond_to_all()

    async def session(target: str) -> list[str]:
        async with AsyncClient(target, timeout_s=10) as client:
            return await asyncio.gather(*(ask(client) for _ in range(50)))

    with scripted(script) as listener:
        assert asyncio.run(session(target_of(listener))) == ["9"] * 50
        assert uvloop.run(session(target_of(listener))) == ["9"] * 50
    assert numbers == [0, 1]


async def test_calls_above_the_servers_limit_wait_for_their_turn() -> None:
    def script(connection: socket.socket, number: int) -> None:
        served = Served(connection)
        served.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 2})
        served.respond_to_all()  # h2 raises if a third call is opened

    async def stream_once(client: AsyncClient) -> str:
        async with client.stream() as stream:
            await stream.send(1, REQUEST)
            await asyncio.sleep(0.01)
            return "9"

    with scripted(script) as listener:
        async with AsyncClient(target_of(listener), timeout_s=10) as client:
            await ask(client)  # now the limit is known
            calls = [ask(client) for _ in range(20)] + [stream_once(client) for _ in range(3)]
            assert await asyncio.gather(*calls) == ["9"] * 23


async def test_a_call_that_waits_for_its_turn_may_be_cancelled_or_late() -> None:
    def script(connection: socket.socket, number: int) -> None:
        served = Served(connection)
        served.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
        for _ in range(2):
            stream_id = served.request()
            assert stream_id is not None
            served.respond(stream_id)
        while served.request() is not None:  # never answered
            pass

    with scripted(script) as listener:
        async with AsyncClient(target_of(listener), timeout_s=0.5) as client:
            await ask(client)
            first, cancelled, last = (asyncio.create_task(ask(client)) for _ in range(3))
            await asyncio.sleep(0)
            cancelled.cancel()
            assert await first == "9"
            with pytest.raises(DeadlineError):
                await last


async def test_a_call_that_the_server_did_not_look_at_is_sent_again_once() -> None:
    def script(connection: socket.socket, number: int) -> None:
        served = Served(connection)
        stream_id = served.request()
        assert stream_id is not None
        if number in (0, 2, 3):
            served.h2.close_connection(ErrorCodes.NO_ERROR, last_stream_id=0)
            served.flush()
        else:
            served.respond(stream_id)
        while connection.recv(65536):
            pass

    with scripted(script) as listener:
        async with AsyncClient(target_of(listener), timeout_s=10) as client:
            assert await ask(client) == "9"
            client.retire()
            with pytest.raises(UnavailableError, match="closes the connection"):
                await ask(client)


async def test_after_a_deadline_later_calls_take_another_connection() -> None:
    def script(connection: socket.socket, number: int) -> None:
        served = Served(connection)
        if number:
            served.respond_to_all()
        while served.request() is not None:
            pass

    with scripted(script) as listener:
        async with AsyncClient(target_of(listener), timeout_s=0.3) as client:
            with pytest.raises(DeadlineError, match=r"no answer within 0\.3 s"):
                await ask(client)
            assert await ask(client) == "9"


async def test_a_cancelled_call_is_reset_and_others_go_on() -> None:
    reset: list[Any] = []

    def script(connection: socket.socket, number: int) -> None:
        served = Served(connection)
        first = served.request()
        second = served.request()
        assert first is not None
        assert second is not None
        served.respond(second)
        while data := connection.recv(65536):
            reset.extend(event for event in served.h2.receive_data(data) if hasattr(event, "error_code"))

    with scripted(script) as listener:
        async with AsyncClient(target_of(listener), timeout_s=10) as client:
            cancelled = asyncio.create_task(ask(client))
            await asyncio.sleep(0)
            answered = asyncio.create_task(ask(client))
            assert await answered == "9"
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
    assert [event.error_code for event in reset] == [ErrorCodes.CANCEL]


async def test_a_connection_that_breaks_ends_calls_and_streams() -> None:
    def script(connection: socket.socket, number: int) -> None:
        Served(connection).request()

    with scripted(script) as listener:
        async with AsyncClient(target_of(listener), timeout_s=10) as client, client.stream() as stream:
            await stream.send(1, REQUEST)
            with pytest.raises(UnavailableError):
                await ask(client)
            with pytest.raises(UnavailableError):
                await stream.receive()


async def test_a_server_that_takes_no_frames_makes_the_sender_wait() -> None:
    def script(connection: socket.socket, number: int) -> None:
        served = Served(connection)  # its window of 64 kB is never given back
        while connection.recv(65536):
            served.flush()

    with scripted(script) as listener:
        async with AsyncClient(target_of(listener), timeout_s=0.3) as client, client.stream() as stream:
            large = packed_request(bytes(88 * 1024), 1024, CORE_1.hash)
            frames = [stream.send(frame_id, large) for frame_id in range(20)]
            with pytest.raises(DeadlineError, match="did not accept a frame within"):
                await _in_turn(frames)


async def test_a_client_may_be_closed_while_it_connects() -> None:
    client = AsyncClient("192.0.2.1:1", timeout_s=10)  # RFC 5737: nobody answers
    call = asyncio.create_task(ask(client))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(UnavailableError):
        await call


async def _in_turn(sends: list[Coroutine[Any, Any, None]]) -> None:
    try:
        for send in sends:
            await send
    finally:
        for send in sends:
            send.close()
