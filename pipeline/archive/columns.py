"""Which column of a flat recording holds what: a map that the user gives, completed by common names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.errors import UsageError

# Names as people write them, lower case, without "_", "-", " " and ".". The first name that a file has wins.
COMMON_NAMES: dict[str, tuple[str, ...]] = {
    "product": ("productid", "product", "symbol", "pair", "instrument", "instrumentid", "ticker", "market"),
    "time": (
        "eventtimens", "eventtime", "exchangetime", "exchangetimestamp", "timestamp", "time", "ts", "datetime", "date",
        "timens", "timeus", "timems", "times", "timestampns", "timestampus", "timestampms", "tsns", "tsus", "tsms",
        "tsexchange", "exchangets", "tse",
    ),
    "bid": ("bestbid", "bid", "bidprice", "bestbidprice", "bidpx", "bid0", "bidprice0"),
    "ask": ("bestask", "ask", "askprice", "bestaskprice", "askpx", "offer", "bestoffer", "ask0", "askprice0"),
    "bid_quantity": (
        "bestbidquantity", "bidquantity", "bestbidsize", "bidsize", "bidqty", "bestbidqty", "bidvolume", "bidamount",
        "bidsz", "bidsize0",
    ),
    "ask_quantity": (
        "bestaskquantity", "askquantity", "bestasksize", "asksize", "askqty", "bestaskqty", "askvolume", "askamount",
        "asksz", "offersize", "asksize0",
    ),
    "mid": ("mid", "midprice", "midpx"),
    "spread": ("spread", "spreadabs", "bidaskspread"),
    "price": ("price", "last", "lastprice", "lasttrade", "lasttradeprice", "close", "px"),
    "sequence": ("sequencenum", "sequence", "seq", "sequencenumber", "seqnum", "updateid"),
    "ingest_time": (
        "ingesttimens", "ingesttime", "receivedat", "receivetime", "receivets", "recvtime", "localtimestamp",
        "localtime", "recordedat", "arrivaltime", "tsreceived", "tsrecv",
    ),
    "venue": ("venue", "exchange"),
}  # fmt: skip
ROLES = tuple(COMMON_NAMES)


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """The column of each role; "" if the file has none. `guessed`: the roles that the user did not give."""

    columns: Mapping[str, str]
    guessed: frozenset[str]

    def __getitem__(self, role: str) -> str:
        return self.columns.get(role, "")

    @property
    def missing(self) -> str:
        """What a tick lacks, in words; "" if the file holds ticks."""
        lacks = [] if self["time"] else ["time"]
        if not self["mid"] and not (self["bid"] and self["ask"]):
            lacks.append("bid and ask, or mid")
        return "; ".join(lacks)

    def not_computed(self) -> dict[str, str]:
        """Features that need a column which the file lacks, with the reason."""
        reasons: dict[str, str] = {}
        if not (self["bid_quantity"] and self["ask_quantity"]):
            names = ("order_book_imbalance", "order_flow_imbalance", "mean_imbalance")
            reasons |= dict.fromkeys(names, "no column with the quantities of bid and ask")
        if not self["spread"] and not (self["bid"] and self["ask"]):
            reasons |= dict.fromkeys(("spread_abs", "spread_rel", "mean_spread_rel"), "no column for the spread")
        return reasons

    def substituted(self) -> dict[str, str]:
        """Features whose column the file lacks, with what stands in for it."""
        return {} if self["price"] else {"price": "the midprice stands in for the last trade price"}


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
            by_plain_name.setdefault(re.sub(r"[_\-. ]", "", name).lower(), name)
    columns = dict(given)
    for role, common in COMMON_NAMES.items():
        common_column = next((by_plain_name[name] for name in common if name in by_plain_name), None)
        if role not in columns and common_column is not None and common_column not in columns.values():
            columns[role] = common_column
    if columns.get("bid") and columns.get("ask"):  # the quotes are exact, a midprice is derived from them
        columns = {role: column for role, column in columns.items() if role in given or role not in ("mid", "spread")}
    return ColumnMap(columns, frozenset(columns) - frozenset(given))
