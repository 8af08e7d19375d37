"""The venue that the settings name, behind its port."""

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.settings import Settings
from tradesaga.infra.venues.ccxt_adapter import CcxtVenue
from tradesaga.infra.venues.ccxt_client import VenueAddress
from tradesaga.sagas.trade.venue import VenuePort


def open_venue(settings: Settings, *, timeout: float = 5.0) -> VenuePort:
    """Return the venue's port; nothing is connected yet. Raises `CommandError` (exit 2) when no venue is known."""
    if not settings.venue_url:
        raise CommandError(
            "venue-unknown", "no venue is known", str(settings.home),
            "start the stack with `tradesaga up`, or set TRADESAGA_VENUE_URL, _KEY and _SECRET", ExitCode.USAGE,
        )  # fmt: skip
    key, secret = settings.venue_key.get_secret_value(), settings.venue_secret.get_secret_value()
    return CcxtVenue(VenueAddress(settings.venue_url, key, secret, timeout=timeout))
