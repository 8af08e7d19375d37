"""`tradesaga reconcile`: exit 1 if the venue, the ledger and the sagas do not agree."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer

from tradesaga.infra.cli.console import AsJson, Directory, to_json
from tradesaga.infra.errors import CommandError, ExitCode, unavailable
from tradesaga.infra.reconciliation.run import Findings, reconcile
from tradesaga.infra.settings import Settings, load_settings
from tradesaga.infra.venues.access import open_venue
from tradesaga.sagas.trade.venue import VenueError, VenueRejected

_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]


def reconcile_command(
    *,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--since",
            formats=_TIMES,
            help="Check facts and dead letters from this time on, UTC; default: a week ago.",
        ),
    ] = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Compare the venue's orders, trades and holdings with the ledger and the sagas, and facts with their rows.

    From the dead letters, list the trade's records that rows contradict, such as forged commands and reports.

    Example: `tradesaga reconcile --since 2026-11-01`
    """
    begin = None if since is None else since.replace(tzinfo=UTC)
    findings = asyncio.run(_reconcile(load_settings(directory), begin))
    if as_json:
        typer.echo(to_json(findings.as_json()))
    else:
        _show(findings)
    if findings.discrepancies:
        raise typer.Exit(int(ExitCode.CHECK_FAILED))


async def _reconcile(settings: Settings, since: datetime | None) -> Findings:
    port = open_venue(settings)
    try:
        return await reconcile(port, settings, since, dead_letters=True)
    except VenueRejected as error:
        do = "correct TRADESAGA_VENUE_KEY and TRADESAGA_VENUE_SECRET"
        what = f"the venue refused to show the account: {error.reason}"
        raise CommandError("venue-refused", what, settings.venue_url, do, ExitCode.REFUSED) from error
    except VenueError as error:
        what, do = f"the venue does not answer: {error}", "start it, or correct TRADESAGA_VENUE_URL"
        raise unavailable("venue-unavailable", what, settings.venue_url, do) from error
    finally:
        await port.close()


def _show(findings: Findings) -> None:
    for each in findings.discrepancies:
        typer.echo(f"{each.flaw}  {each.subject}  {each.detail}")
    left_out = "" if findings.balances_checked else "; the venue's holdings could not be compared while they change"
    found = len(findings.discrepancies)
    verdict = f"{found} discrepanc{'y' if found == 1 else 'ies'}" if found else "all agree"
    facts = f"{findings.facts.checked} facts since {findings.facts.since:%Y-%m-%d %H:%M} UTC"
    if (left := findings.facts.count - len(findings.facts.forged)) > 0:
        typer.echo(f"and {left} more forged facts")
    letters = findings.dead_letters
    if letters is not None and letters.unread:
        typer.echo(f"the dead letters could not be read: {letters.unread}")
    elif letters is not None:
        facts += f", {letters.checked} dead letters ({letters.count} contradictions)"
    typer.echo(f"{findings.sagas} ended sagas, {findings.orders} orders, {facts}: {verdict}{left_out}")
