"""All exchanges. A new exchange needs a line here."""

from __future__ import annotations

from common.errors import ConfigError
from pipeline.feed.binance import BinanceFeed
from pipeline.feed.coinbase import CoinbaseFeed
from pipeline.feed.protocol import Feed

_ALL: tuple[Feed, ...] = (
    CoinbaseFeed(),
    BinanceFeed(),
)

FEEDS: dict[str, Feed] = {feed.venue: feed for feed in _ALL}


def feed_of(venue: str) -> Feed:
    """The exchange of `ingest.venue`. Raises ConfigError for a name that is none."""
    try:
        return FEEDS[venue]
    except KeyError:
        raise ConfigError("ingest.venue", venue, f"one of {', '.join(FEEDS)}") from None


def check_products(feed: Feed, products: tuple[str, ...]) -> None:
    """Raises ConfigError for a name that cannot be a product of the exchange."""
    for number, product in enumerate(products):
        if not feed.is_product(product):
            raise ConfigError(f"ingest.products.{number}", product, f"a product of {feed.venue} such as {feed.example}")


def recognized(raw: bytes) -> Feed | None:
    """The exchange that sends messages of this form."""
    return next((feed for feed in _ALL if feed.recognizes(raw)), None)
