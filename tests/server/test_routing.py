from __future__ import annotations

import hashlib

import pytest

from server.core.routing import CanarySplit

KEYS = [f"client-{number}" for number in range(20_000)]


def picked(name: str, share: float) -> set[str]:
    split = CanarySplit(name, share)
    return {key for key in KEYS if split.picks(key)}


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_share_of_the_keys_is_the_share_asked_for(share: float) -> None:
    assert len(picked("volatility", share)) / len(KEYS) == pytest.approx(share, abs=0.01)


def test_none_and_all_mean_it() -> None:
    assert picked("volatility", 0.0) == set()
    assert picked("volatility", 1.0) == set(KEYS)


def test_raising_the_share_moves_keys_to_the_canary_and_none_back() -> None:
    before: set[str] = set()
    for share in (0.05, 0.1, 0.11, 0.5, 1.0):
        now = picked("volatility", share)
        assert before < now
        before = now


def test_the_hash_is_the_one_that_is_documented() -> None:
    """Replicas of other releases, and clients that want to know beforehand, compute the same."""
    for key in KEYS[:200]:
        digest = hashlib.blake2b(b"volatility\x00" + key.encode(), digest_size=8).digest()
        assert CanarySplit("volatility", 0.3).picks(key) == (int.from_bytes(digest, "big") < 0.3 * 2**64)


def test_who_gets_the_canary_of_one_model_says_nothing_of_another() -> None:
    both = picked("volatility", 0.5) & picked("volatilitz", 0.5)
    assert len(both) / len(KEYS) == pytest.approx(0.25, abs=0.015)


def test_keys_of_any_text_have_a_place() -> None:
    assert all(CanarySplit("volatility", 1.0).picks(key) for key in ("ключ", "\ud800", "a" * 10_000, "\0"))
