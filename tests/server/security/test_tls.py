"""Real certificates, real grpc clients."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from common.config import ServerConfig
from common.errors import ConfigError, InputError
from server.security.tls import Certificates
from tests.server.security.authority import Authority, Files
from tests.server.security.conftest import Log
from tests.server.security.echo import call, echo


def certificates(files: Files, log: Log, mutual: bool = False) -> Certificates:
    return Certificates(files.cert, files.key, files.client_ca if mutual else None, log)


def trusting(authority: Authority, shown: tuple[bytes, bytes] | None = None) -> grpc.ChannelCredentials:
    cert, key = shown or (None, None)
    return grpc.ssl_channel_credentials(authority.pem, key, cert)


async def test_a_caller_that_trusts_the_authority_gets_a_response(files: Files, log: Log, authority: Authority) -> None:
    async with echo(certificates(files, log).credentials()) as address:
        assert await call(address, trusting(authority)) == b"row"


async def test_a_caller_that_trusts_another_authority_or_uses_plaintext_fails(
    files: Files, log: Log, stranger: Authority
) -> None:
    async with echo(certificates(files, log).credentials()) as address:
        for credentials in (trusting(stranger), None):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(address, credentials)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_with_a_client_authority_only_callers_that_it_signed_are_answered(
    files: Files, log: Log, authority: Authority, stranger: Authority
) -> None:
    async with echo(certificates(files, log, mutual=True).credentials()) as address:
        assert await call(address, trusting(authority, authority.signed("caller"))) == b"row"
        for shown in (None, stranger.signed("caller"), authority.signed("caller", days=-1)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(address, trusting(authority, shown))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_new_files_count_from_the_next_connection_on_and_those_in_hand_live_on(
    files: Files, log: Log, authority: Authority, stranger: Authority
) -> None:
    loaded = certificates(files, log)
    async with (
        echo(loaded.credentials()) as address,
        grpc.aio.secure_channel(address, trusting(authority)) as old,
    ):
        assert await old.unary_unary("/test.Echo/Unary", bytes, bytes)(b"before", timeout=10) == b"before"
        files.write(*stranger.signed())
        assert await call(address, trusting(stranger)) == b"row"
        with pytest.raises(grpc.aio.AioRpcError):
            await call(address, trusting(authority))
        assert await old.unary_unary("/test.Echo/Unary", bytes, bytes)(b"after", timeout=10) == b"after"
    assert (loaded.reloads, loaded.failures) == (1, 0)
    assert log.names == ["certificate_loaded"]


async def test_a_new_client_authority_counts_from_the_next_connection_on(
    files: Files, log: Log, authority: Authority, stranger: Authority
) -> None:
    async with echo(certificates(files, log, mutual=True).credentials()) as address:
        files.client_ca.write_bytes(stranger.pem)
        assert await call(address, trusting(authority, stranger.signed("caller"))) == b"row"
        with pytest.raises(grpc.aio.AioRpcError):
            await call(address, trusting(authority, authority.signed("caller")))


async def test_broken_files_leave_the_old_pair_and_are_logged_once(
    files: Files, log: Log, authority: Authority
) -> None:
    loaded = certificates(files, log)
    good_cert, good_key = files.cert.read_bytes(), files.key.read_bytes()
    _, other_key = authority.signed()
    async with echo(loaded.credentials()) as address:
        for count, (cert, key) in enumerate(
            [(good_cert, other_key), (b"", good_key), (good_cert[:200], good_key), authority.signed(days=-1)], 1
        ):
            files.write(cert, key)
            for _ in range(2):
                assert await call(address, trusting(authority)) == b"row"
            assert (loaded.reloads, loaded.failures) == (0, count)
        files.cert.unlink()
        assert await call(address, trusting(authority)) == b"row"
        files.write(*authority.signed(days=90))
        assert await call(address, trusting(authority)) == b"row"
    assert log.names == ["certificate_refused"] * 5 + ["certificate_loaded"]
    assert loaded.days_left() == pytest.approx(90, abs=0.01)


def test_the_days_left_are_those_of_the_first_of_the_chain_to_end(files: Files, log: Log, authority: Authority) -> None:
    leaf, key = authority.signed(days=500)
    files.write(leaf + authority.pem, key)
    loaded = certificates(files, log)
    assert loaded.days_left() == pytest.approx(400, abs=0.01)


def test_a_certificate_that_ends_while_it_serves_has_negative_days_left(files: Files, log: Log) -> None:
    now_s = [0.0]
    loaded = Certificates(files.cert, files.key, None, log, lambda: now_s[0])
    now_s[0] = 4e9
    assert loaded.days_left() < 0


def test_files_that_are_no_pair_are_refused_at_start_with_the_file_and_the_reason(
    files: Files, log: Log, authority: Authority
) -> None:
    cert, key = files.cert.read_bytes(), files.key.read_bytes()
    _, other_key = authority.signed()
    for bad_cert, bad_key, words in (
        (b"", key, rf"certificate {files.cert}: no PEM certificate"),
        (cert.replace(b"M", b"N"), key, rf"certificate {files.cert}: damaged|key {files.key}: not"),
        (cert, other_key, rf"key {files.key}: not an unencrypted PEM key of the certificate"),
        (cert, b"", rf"key {files.key}: not an unencrypted PEM key of the certificate"),
        (*authority.signed(days=-2), rf"certificate {files.cert}: expired on \d{{4}}-\d\d-\d\d"),
    ):
        files.write(bad_cert, bad_key)
        with pytest.raises(InputError, match=words):
            certificates(files, log)
    files.write(cert, key)
    files.client_ca.write_bytes(b"nothing")
    with pytest.raises(InputError, match=f"certificate {files.client_ca}: no PEM certificate"):
        certificates(files, log, mutual=True)
    files.key.unlink()
    with pytest.raises(InputError, match=f"key {files.key}: cannot be read: No such file"):
        certificates(files, log)


def test_the_configuration_names_both_files_or_none(files: Files, log: Log) -> None:
    both = ServerConfig(tls_cert=str(files.cert), tls_key=str(files.key), tls_client_ca=str(files.client_ca))
    assert Certificates.of(both, log) is not None
    assert Certificates.of(ServerConfig(), log) is None
    for config, key in (
        (ServerConfig(tls_cert="c"), "server.tls_key"),
        (ServerConfig(tls_key="k"), "server.tls_cert"),
        (ServerConfig(tls_client_ca="a"), "server.tls_client_ca"),
    ):
        with pytest.raises(ConfigError) as caught:
            Certificates.of(config, log)
        assert caught.value.key == key


def test_a_link_that_is_swapped_is_a_change(tmp_path: Path, log: Log, authority: Authority) -> None:
    old, new = tmp_path / "one", tmp_path / "two"
    for folder in (old, new):
        folder.mkdir()
        Files(folder, authority)
    mounted = tmp_path / "mounted"
    mounted.symlink_to(old)
    loaded = Certificates(mounted / "server.crt", mounted / "server.key", None, log)
    assert loaded.refresh() is False
    (tmp_path / "next").symlink_to(new)
    (tmp_path / "next").rename(mounted)
    assert loaded.refresh() is True
