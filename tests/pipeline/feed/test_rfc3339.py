from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.feed.rfc3339 import MAX_NS, format_ns, parse_ns


@given(st.integers(0, MAX_NS))
def test_every_nanosecond_survives_printing_and_parsing(ns: int) -> None:
    assert parse_ns(format_ns(ns)) == ns


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2262, 4, 10)),
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
    st.text("0123456789", max_size=9),
)
def test_any_offset_and_fraction_agree_with_datetime(moment: datetime, offset_min: int, fraction: str) -> None:
    zone = timezone(timedelta(minutes=offset_min))
    aware = moment.replace(microsecond=0, tzinfo=zone)
    sign = "-" if offset_min < 0 else "+"
    hours, minutes = divmod(abs(offset_min), 60)
    text = f"{moment:%Y-%m-%dT%H:%M:%S}{'.' + fraction if fraction else ''}{sign}{hours:02d}:{minutes:02d}"
    since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    whole_ns = (since.days * 86_400 + since.seconds) * 1_000_000_000
    assert parse_ns(text) == whole_ns + int(fraction.ljust(9, "0"))


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-04-05T22:35:13.92532762Z", 1775428513925327620),
        ("2026-04-05T22:35:13.925327620z", 1775428513925327620),
        ("2026-04-05t22:35:13.865365+00:00", 1775428513865365000),
        ("2026-04-06T00:35:13+02:00", 1775428513000000000),
        ("2262-04-11T23:47:16.854775807Z", MAX_NS),
    ],
)
def test_timestamps_as_feeds_and_recorders_write_them(text: str, ns: int) -> None:
    assert parse_ns(text) == ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Z",
        "2026-04-05",
        "2026-04-05T22:35:13",  # no offset: nobody knows when that is
        "2026-04-05 22:35:13Z",
        "2026-04-05T22:35:13.Z",
        "2026-04-05T22:35:13.1234567891Z",
        "2026-04-05T22:35:13.1_0Z",
        "2026-04-05T22:35:13.+10Z",
        "2026-04-05T22:35:13.١Z",
        "2026-04-05T22:35:13,1Z",
        "2026-04-05T22:35:60Z",
        "2026-04-05T24:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-04-05T22:35:13+24:00",
        "2026-04-05T22:35:13+0200",
        "1969-12-31T23:59:59.999999999Z",
        "1970-01-01T00:00:00+00:01",
        "0001-01-01T00:00:00Z",
        "2262-04-11T23:47:16.854775808Z",
        "9999-12-31T23:59:59-23:59",
        "0000-00-00T00:00:00Z",
        " 2026-04-05T22:35:13Z",
        "2026-04-05T22:35:13Z\n",
    ],
)
def test_what_is_no_exact_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_ns(text)


@given(st.text())
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    try:
        ns = parse_ns(text)
    except ValueError:
        return
    assert 0 <= ns <= MAX_NS
