"""The columns of a flat recording by role: a map that the user gives, completed by common names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from common.errors import UsageError

# Names as people write them, lower case, without the characters of _SEPARATORS. The first name that a file has wins.
COMMON_NAMES: dict[str, tuple[str, ...]] = {
    "product": (
        "productid", "product", "symbol", "pair", "instrument", "instrumentid", "ticker", "market", "sym",
        "currencypair",
    ),
    "time": (
        "eventtimens", "eventtime", "exchangetime", "exchangetimestamp", "timestamp", "time", "ts", "datetime", "date",
        "timens", "timeus", "timems", "times", "timestampns", "timestampus", "timestampms", "tsns", "tsus", "tsms",
        "tsexchange", "exchangets", "tse", "tsevent", "transactiontime", "indexlevel0", "tsutc",
        "timeutc", "timestamputc", "datetimeutc",
    ),
    "date": ("date", "day", "tradedate"),
    "bid": (
        "bestbid", "bid", "bidprice", "bestbidprice", "bidpx", "bid0", "bidprice0", "bids0price", "bidpx00", "bid1",
        "bidprice1", "bidpx1",
    ),
    "ask": (
        "bestask", "ask", "askprice", "bestaskprice", "askpx", "offer", "bestoffer", "ask0", "askprice0", "asks0price",
        "askpx00", "ask1", "askprice1", "askpx1",
    ),
    "bid_quantity": (
        "bestbidquantity", "bidquantity", "bestbidsize", "bidsize", "bidqty", "bestbidqty", "bidvolume", "bidamount",
        "bidsz", "bidvol", "bidsize0", "bids0amount", "bidsz00", "bidsize1", "bidqty1",
    ),
    "ask_quantity": (
        "bestaskquantity", "askquantity", "bestasksize", "asksize", "askqty", "bestaskqty", "askvolume", "askamount",
        "asksz", "askvol", "offersize", "asksize0", "asks0amount", "asksz00", "asksize1", "askqty1",
    ),
    "mid": ("mid", "midprice", "midpx"),
    "spread": ("spread", "spreadabs", "bidaskspread"),
    "price": ("price", "last", "lastprice", "lasttrade", "lasttradeprice", "close", "px"),
    "sequence": ("sequencenum", "sequence", "seq", "sequencenumber", "seqnum", "updateid"),
    "ingest_time": (
        "ingesttimens", "ingesttime", "receivedat", "receivetime", "receivets", "recvtime", "recvts",
        "receivedtime", "receivedts", "localtimestamp", "localtime", "localts", "recordedat", "arrivaltime",
        "tsreceived", "tsrecv",
    ),
    "venue": ("venue", "exchange"),
}  # fmt: skip
ROLES = tuple(COMMON_NAMES)
_SEPARATORS = re.compile(r"[_\-. \[\]/]")


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """The column of each role; "" if the file has none. `guessed`: the roles that the user did not give.

    empty: columns without a value, which have no role. partly_empty: columns that lack a value in some rows.
    """

    columns: Mapping[str, str]
    guessed: frozenset[str]
    empty: tuple[str, ...] = ()
    partly_empty: tuple[str, ...] = ()

    def __getitem__(self, role: str) -> str:
        return self.columns.get(role, "")

    @property
    def missing(self) -> str:
        """What a tick lacks, in words; "" if the file holds ticks."""
        lacks = [] if self["time"] else ["time"]
        if not self["mid"] and not (self["bid"] and self["ask"]):
            lacks.append("bid and ask, or mid")
        return "; ".join(lacks)

    def with_values(self, empty: Collection[str], partly_empty: Collection[str]) -> ColumnMap:
        """The map without its empty columns."""
        columns = {role: column for role, column in self.columns.items() if column not in empty}
        return ColumnMap(columns, self.guessed & columns.keys(), tuple(empty), tuple(partly_empty))

    def not_computed(self) -> dict[str, str]:
        """Features that need a column which the file lacks, with the reason."""
        reasons: dict[str, str] = {}
        if not (self["bid_quantity"] and self["ask_quantity"]):
            names = ("order_book_imbalance", "order_flow_imbalance", "mean_imbalance")
            empty = f" ({', '.join(self.empty)}: no value in the first rows)" if self.empty else ""
            reasons |= dict.fromkeys(names, f"no column with the quantities of bid and ask{empty}")
        if not self["spread"] and not (self["bid"] and self["ask"]):
            reasons |= dict.fromkeys(("spread_abs", "spread_rel", "mean_spread_rel"), "no column for the spread")
        return reasons

    def substituted(self) -> dict[str, str]:
        """Values whose column the file lacks, with the value that replaces them."""
        sources = {} if self["price"] else {"price": "the midprice replaces the last trade price"}
        if self["time"] and self["time"] == self["ingest_time"]:
            sources["event_time"] = "the time of receipt replaces the time of the event"
        if self.partly_empty:
            sources["order_book_imbalance"] = f"0 in rows without a value of {' or '.join(self.partly_empty)}"
        return sources


def parse_map(text: str) -> dict[str, str]:
    """`time=ts,bid=b` as a dictionary. Raises UsageError."""
    columns: dict[str, str] = {}
    for part in text.split(",") if text else []:
        role, equals, column = (each.strip() for each in part.partition("="))
        if not equals or not column or role not in ROLES:
            raise UsageError(f"--columns: expected ROLE=COLUMN with a role of {', '.join(ROLES)}, got {part!r}")
        columns[role] = column
    return columns


def complete(given: Mapping[str, str], names: Sequence[str]) -> ColumnMap:
    """Finds the columns of the roles that are not given, by their common names.

    Raises UsageError for a given column that the file lacks.
    """
    for role, column in given.items():
        if column not in names:
            raise UsageError(f"--columns {role}={column}: the file has the columns {', '.join(names)}")
    by_plain_name: dict[str, str] = {}
    for name in names:
        if name not in given.values():
            by_plain_name.setdefault(_SEPARATORS.sub("", name).lower(), name)
    columns = dict(given)
    for role, common in COMMON_NAMES.items():
        common_column = next((by_plain_name[name] for name in common if name in by_plain_name), None)
        if role not in columns and common_column is not None and common_column not in columns.values():
            columns[role] = common_column
    if "time" not in columns and "ingest_time" in columns:
        columns["time"] = columns["ingest_time"]
    if columns.get("bid") and columns.get("ask"):  # the quotes are exact, a midprice is derived from them
        columns = {role: column for role, column in columns.items() if role in given or role not in ("mid", "spread")}
    return ColumnMap(columns, frozenset(columns) - frozenset(given))
