"""Connections of the synchronous client, against servers that fail, hang, close or read slowly."""

from __future__ import annotations

import socket
import threading
from base64 import b64encode
from pathlib import Path
from time import monotonic

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from clients import link, opening
from clients.opening import Route
from clients.sync import Client
from common.access import Access
from common.errors import DeadlineError, UnavailableError, VolcastError
from common.schema import CORE_1
from tests.clients.scripted import Served, scripted, target_of
from tests.server.bundles import rows
from tests.server.processes import Process


def ask(client: Client) -> str:
    return client.predict_packed(bytes(88), 1, CORE_1.hash).model_version


def test_calls_follow_each_other_on_a_connection() -> None:
    numbers = []

    def script(connection: socket.socket, number: int) -> None:
        numbers.append(number)
        Served(connection).respond_to_all()

    with scripted(script) as listener, Client(target_of(listener)) as client:
        assert [ask(client) for _ in range(5)] == ["9"] * 5
    assert numbers == [0]


def test_a_connection_that_closed_while_it_was_idle_is_replaced() -> None:
    def script(connection: socket.socket, number: int) -> None:
        served = Served(connection)
        stream_id = served.request()
        assert stream_id is not None
        served.respond(stream_id)
        connection.shutdown(socket.SHUT_RDWR)

    with scripted(script) as listener, Client(target_of(listener)) as client:
        assert [_after_close(client) for _ in range(3)] == ["9"] * 3


def _after_close(client: Client) -> str:
    version = ask(client)
    deadline_s = monotonic() + 5
    while client._idle and client._idle[0].refresh() and monotonic() < deadline_s:
        pass
    return version


@pytest.mark.parametrize("how", ["goaway", "refused"])
def test_a_call_that_the_server_did_not_look_at_is_sent_again_once(how: str) -> None:
    numbers = []

    def script(connection: socket.socket, number: int) -> None:
        numbers.append(number)
        served = Served(connection)
        stream_id = served.request()
        assert stream_id is not None
        if number in (1, 2, 3):
            if how == "goaway":
                served.h2.close_connection(ErrorCodes.NO_ERROR, last_stream_id=0)
            else:
                served.h2.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            # In one segment with the end. Else the client may use the connection again before it sees the end.
            if hasattr(socket, "TCP_CORK"):  # Linux
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            served.flush()
            connection.shutdown(socket.SHUT_WR)
        else:
            served.respond(stream_id)
            connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    with scripted(script) as listener, Client(target_of(listener)) as client:
        _after_close(client)
        with pytest.raises(UnavailableError, match=r"closes the connection|REFUSED_STREAM"):
            ask(client)
        assert _after_close(client) == "9"
    assert numbers == [0, 1, 2, 3, 4]


def test_a_connection_that_breaks_during_a_call_is_an_error() -> None:
    def script(connection: socket.socket, number: int) -> None:
        Served(connection).request()

    with scripted(script) as listener, Client(target_of(listener)) as client:
        target = target_of(listener)
        with pytest.raises(UnavailableError, match=f"inference server at {target}: UNAVAILABLE: .*closed|reset"):
            ask(client)
        with client.stream() as stream:
            stream.send_packed(1, bytes(88), 1, CORE_1.hash)
            with pytest.raises(UnavailableError):
                stream.receive()


def test_a_server_of_another_protocol_is_named() -> None:
    def script(connection: socket.socket, number: int) -> None:
        connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")
        connection.recv(65536)

    with (
        scripted(script) as listener,
        Client(target_of(listener)) as client,
        pytest.raises(UnavailableError, match="the server breaks HTTP/2"),
    ):
        ask(client)


def test_a_response_that_is_no_message_is_an_error() -> None:
    def script(connection: socket.socket, number: int) -> None:
        served = Served(connection)
        while (stream_id := served.request()) is not None:
            served.respond(stream_id, b"\xff\xff\xff")

    with (
        scripted(script) as listener,
        Client(target_of(listener)) as client,
        pytest.raises(VolcastError, match="INTERNAL: a response that is not a PredictResponse"),
    ):
        ask(client)


def test_frames_wait_for_a_server_that_reads_slowly() -> None:
    release = threading.Event()

    def script(connection: socket.socket, number: int) -> None:
        served = Served(connection)
        served.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**24})
        served.h2.increment_flow_control_window(2**24)
        served.flush()
        assert release.wait(10)
        stream_id = served.request()
        assert stream_id is not None
        served.respond(stream_id)
        served.request()

    with scripted(script) as listener, Client(target_of(listener), timeout_s=10) as client:
        threading.Timer(0.2, release.set).start()
        values = rows(1).tobytes() * 100_000  # 9 MB: more than the kernel's buffers hold
        assert client.predict_packed(values, 100_000, CORE_1.hash).model_version == "9"


def test_a_deadline_ends_the_call_and_the_next_call_takes_another_connection() -> None:
    numbers = []

    def script(connection: socket.socket, number: int) -> None:
        numbers.append(number)
        served = Served(connection)
        if number:
            served.respond_to_all()
        else:
            while served.request() is not None:
                pass

    with scripted(script) as listener, Client(target_of(listener), timeout_s=0.3) as client:
        with pytest.raises(DeadlineError, match=r"no answer within 0\.3 s"):
            ask(client)
        assert ask(client) == "9"
    assert numbers == [0, 1]


def test_nothing_waits_for_a_connection_that_opens_slowly(server: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def open_late(route: Route) -> socket.socket:
        assert release.wait(10)
        return opening.open_socket(route)

    monkeypatch.setattr(link, "open_socket", open_late)
    with Client(server.address, timeout_s=0.2) as client, client.stream() as stream:
        began_s = monotonic()
        with pytest.raises(DeadlineError):
            client.health()
        stream.send_packed(1, rows(1), 1, CORE_1.hash)
        assert stream.poll(0.05) is None
        stream.close()  # gives up the frame, not the connection that is being opened
        stream.send_packed(2, rows(1), 1, CORE_1.hash)
        assert monotonic() - began_s < 5
        release.set()
        assert stream.receive(10).frame_id == 2
    assert threading.active_count() < 20


def test_a_name_that_cannot_be_one_is_an_error_in_one_line() -> None:
    for target in ("127.0.0.1:port", "x" * 70 + ".example:1", "", "unix:/no/such/socket", "dns:///127.0.0.1:1"):
        with Client(target, timeout_s=5) as client, pytest.raises(UnavailableError) as caught:
            client.health()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
def test_a_unix_socket_is_a_target(tmp_path: Path, form: str) -> None:
    path = str(tmp_path / "server")
    serving = scripted(lambda connection, _: Served(connection).respond_to_all(), socket.AF_UNIX, path)
    with serving, Client(form.format(path)) as client:
        assert ask(client) == "9"


@pytest.mark.parametrize("form", ["dns:///{}", "dns:{}", "ipv4:127.0.0.2:1,{}"])
def test_the_forms_of_grpc_names_are_targets(server: Process, form: str) -> None:
    with Client(form.format(server.address), timeout_s=10) as client:
        assert client.health().ready


@pytest.mark.parametrize(
    ("answer", "works"), [(b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n", True), (b"HTTP/1.1 407 No\r\n\r\n", False)]
)
def test_a_proxy_tunnels_the_connection(answer: bytes, works: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[bytes] = []

    def script(connection: socket.socket, number: int) -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += connection.recv(1)
        requests.append(request)
        connection.sendall(answer)
        if works:
            Served(connection).respond_to_all()

    with scripted(script) as listener:
        for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy", "grpc_proxy", "https_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", f"http://ann:p%40ss@{target_of(listener)}")
        with Client("192.0.2.1:50051", timeout_s=5) as client:
            if works:
                assert ask(client) == "9"
            else:
                with pytest.raises(UnavailableError, match=r"the proxy answers 'HTTP/1\.1 407 No'.*\(http_proxy\)"):
                    ask(client)
    assert requests[0].startswith(b"CONNECT 192.0.2.1:50051 HTTP/1.1\r\nHost: 192.0.2.1:50051\r\n")
    assert b"Basic " + b64encode(b"ann:p@ss") in requests[0]


def test_a_client_that_is_not_closed_leaves_no_socket(recwarn: pytest.WarningsRecorder, server: Process) -> None:
    client = Client(server.address, timeout_s=10)
    client.health()
    stream = client.stream()
    stream.predict_packed(rows(1), 1, CORE_1.hash)
    del client, stream
    assert not [warning for warning in recwarn if issubclass(warning.category, ResourceWarning)]


@pytest.mark.parametrize(
    ("target", "authority"),
    [
        ("127.0.0.1:5", "127.0.0.1:5"), ("dns:///host:5", "host:5"), ("[::1]:5", "[::1]:5"), ("host", "host"),
        ("unix:/run/server", "localhost"), ("ipv6:[::1]:5,[::2]:5", "[::1]:5"),
    ],
)  # fmt: skip
def test_the_authority_is_the_address(target: str, authority: str) -> None:
    assert Route(target, Access()).authority == authority


@pytest.mark.parametrize(
    ("target", "hosts"),
    [
        ("host:5", [("host", "5")]),
        ("host", [("host", "443")]),
        ("[::1]:5", [("::1", "5")]),
        ("[::1]", [("::1", "443")]),
        ("ipv6:::1", [("::1", "443")]),
        ("ipv4:1.2.3.4:5,1.2.3.5", [("1.2.3.4", "5"), ("1.2.3.5", "443")]),
    ],
)
def test_a_target_is_split_into_hosts_and_ports(target: str, hosts: list[tuple[str, str]]) -> None:
    assert list(opening._hosts(target)) == hosts
