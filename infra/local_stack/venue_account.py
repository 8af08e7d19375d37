"""The account under which the services trade on the paper venue that the stack starts."""

from pathlib import Path

from pydantic import ValidationError

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.paper_exchange.settings import PaperSettings


def venue_account(config: Path | None) -> tuple[str, str]:
    """Return key and secret of the first account in the venue's file. Raises `CommandError` (exit 2)."""
    try:
        settings = PaperSettings() if config is None else PaperSettings.model_validate_json(config.read_bytes())
    except (OSError, ValidationError) as error:
        what = f"the venue's configuration cannot be read ({type(error).__name__})"
        raise CommandError("venue-config", what, str(config), "correct that file", ExitCode.USAGE) from error
    if not settings.accounts:
        raise CommandError("venue-config", "it opens no account", str(config), "add one to `accounts`", ExitCode.USAGE)
    return settings.accounts[0].key, settings.accounts[0].secret
