"""Access to the venue that the settings name."""

from importlib.util import find_spec

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.settings import Settings
from tradesaga.sagas.trade.venue import VenuePort

if find_spec("ccxt") is None:  # an optional dependency: fail on import, not on first use
    raise ModuleNotFoundError("No module named 'ccxt'", name="ccxt")


def open_venue(settings: Settings, *, timeout: float = 5.0) -> VenuePort:
    """Return the venue's port; nothing is connected yet. Raises CommandError (exit 2) if no venue is set."""
    if not settings.venue_url:
        raise CommandError(
            "venue-unknown", "no venue is set", str(settings.home),
            "start the stack with `tradesaga up`, or set TRADESAGA_VENUE_URL, _KEY and _SECRET", ExitCode.USAGE,
        )  # fmt: skip
    # ccxt loads every exchange that it knows, for more than a second.
    from tradesaga.infra.venues.ccxt_adapter import CcxtVenue  # noqa: PLC0415
    from tradesaga.infra.venues.ccxt_client import VenueAddress  # noqa: PLC0415

    key, secret = settings.venue_key.get_secret_value(), settings.venue_secret.get_secret_value()
    return CcxtVenue(VenueAddress(settings.venue_url, key, secret, timeout=timeout))
