"""Operator commands: `tradesaga retry`, `skip`, `abort`, `compensate`, `recheck`, `resolve`, `release`, `resend`."""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from pydantic import ValidationError

from tradesaga.infra.cli.console import AsJson, Directory, Operator, Reason, print_result
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.facts import wait_until_folded
from tradesaga.infra.postgres.database import Connection, session
from tradesaga.infra.saga_queries import read_row
from tradesaga.infra.settings import SAGA_LOG, load_settings
from tradesaga.infra.telemetry.logs import silence_libraries
from tradesaga.producers.operator.actions import (
    Published,
    SagaView,
    decide,
    open_saga,
    operator_name,
    refused,
    release,
    resend,
)
from tradesaga.schemas.invalid import first_invalid
from tradesaga.schemas.messages.lifecycle import (
    AbortRequested,
    OperatorFact,
    ParkReleased,
    RecheckRequested,
    ResolveRequested,
    RetryRequested,
    SkipRequested,
)

commands = typer.Typer()

SagaArgument = Annotated[str, typer.Argument(metavar="SAGA", help="The saga's id, or the beginning of it.")]
Step = Annotated[str | None, typer.Option("--step", help="The step; default the one that has failed.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until the saga log has processed the action.")]
_PATIENCE: Final = 30.0
RESEND_EXAMPLES: Final = "Example: `tradesaga parked`, then `tradesaga resend 5 12 --service risk`"
RECHECK_EXAMPLES: Final = 'Example: `tradesaga reconcile`, then `tradesaga recheck 5b0d1080 -m "its fill is forged"`'

F = TypeVar("F", bound=OperatorFact)
Making = Callable[[SagaView], OperatorFact]


class FinalState(StrEnum):
    """The state of a saga that is resolved by hand."""

    ABORTED = "ABORTED"
    COMPLETED = "COMPLETED"


class ParkedAction(StrEnum):
    """What is done with a parked record."""

    RETRY = "retry"
    DISCARD = "discard"


def _add_command(name: str, kind: type[AbortRequested | RecheckRequested], description: str, example: str) -> None:
    """Add a command that publishes a decision about a whole saga."""

    @commands.command(name, help=description, epilog=example)
    def decide_on_saga(
        saga: SagaArgument,
        *,
        reason: Reason,
        operator: Operator = None,
        wait: Wait = False,
        directory: Directory = None,
        as_json: AsJson = False,
    ) -> None:
        fact = _validated(lambda: kind(operator=operator_name(operator), reason=reason))
        _run(saga, lambda _: fact, directory, wait=wait, as_json=as_json)

    _ = decide_on_saga


def _add_step_command(name: str, kind: type[RetryRequested | SkipRequested], description: str, example: str) -> None:
    """Add a command that publishes a decision about the named step, or about the only step that accepts it."""

    @commands.command(name, help=description, epilog=example)
    def decide_on_step(
        saga: SagaArgument,
        *,
        reason: Reason,
        step: Step = None,
        operator: Operator = None,
        wait: Wait = False,
        directory: Directory = None,
        as_json: AsJson = False,
    ) -> None:
        def make(chosen: str) -> OperatorFact:
            return _validated(lambda: kind(operator=operator_name(operator), reason=reason, step=chosen))

        making: Making = (lambda _: make(step)) if step else (lambda view: view.choose_step(make))
        _run(saga, making, directory, wait=wait, as_json=as_json)

    _ = decide_on_step


_add_step_command(
    "retry",
    RetryRequested,
    "Run a failed step past the pivot, or a failed compensation, once more.",
    "Example: `tradesaga retry 5b0d1080 -m 'the bank answers again'`",
)
_add_step_command(
    "skip",
    SkipRequested,
    "Skip a failed compensation, or continue without a step that nobody owns.\n\n"
    "In the first case the saga stays FAILED until it is resolved. In the second you vouch that the step has not "
    "happened, and the steps that were done are compensated.",
    "Example: `tradesaga skip 5b0d1080 --step settle_trade -m 'settled by hand'`",
)
_add_command(
    "abort",
    AbortRequested,
    "Compensate a saga that is not past its pivot.",
    "Example: `tradesaga abort 5b0d1080 -m 'wrong account'`",
)
_add_command(
    "compensate",
    AbortRequested,
    "Compensate a saga; the same as `abort`.",
    "Example: `tradesaga compensate 5b0d1080 -m 'wrong account'`",
)
_add_command(
    "recheck",
    RecheckRequested,
    "Ask the owner of each step to report its result again, and compensate the saga unless it is past its pivot.\n\n"
    "For a saga that a forged fact keeps open: the results reported until now no longer count.",
    RECHECK_EXAMPLES,
)


@commands.command(epilog="Example: `tradesaga resolve 5b0d1080 aborted -m 'cancelled by phone, see ticket 17'`")
def resolve(
    saga: SagaArgument,
    outcome: Annotated[FinalState, typer.Argument(case_sensitive=False, help="How the saga has really ended.")],
    *,
    reason: Reason,
    operator: Operator = None,
    wait: Wait = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Close a FAILED saga by hand; the reason names the evidence."""
    ended = outcome.value
    fact = _validated(lambda: ResolveRequested(operator=operator_name(operator), reason=reason, outcome=ended))
    _run(saga, lambda _: fact, directory, wait=wait, as_json=as_json)


@commands.command(
    "release", epilog="Example: `tradesaga release trade.events 3 1200 retry -m 'deployed the version that knows it'`"
)
def release_parked(
    topic: Annotated[str, typer.Argument(help="The parked record's topic.")],
    partition: Annotated[int, typer.Argument(min=0, help="The partition of the topic.")],
    offset: Annotated[int, typer.Argument(min=0, help="The offset in the partition.")],
    action: Annotated[ParkedAction, typer.Argument(help="Process it and the records behind it, or discard it.")],
    *,
    reason: Reason,
    operator: Operator = None,
    wait: Wait = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Release a parked record: process it now or discard it; the saga's later records then follow."""
    settings = load_settings(directory)
    name, chosen = operator_name(operator), action.value
    released = _validated(
        lambda: ParkReleased(
            operator=name, reason=reason, topic=topic, partition=partition, offset=offset, action=chosen
        )
    )

    silence_libraries()

    async def run() -> None:
        async with session(settings.database_for(SAGA_LOG), application_name="tradesaga release") as sql:
            await _report(sql, await release(sql, settings, released), "released", wait=wait, as_json=as_json)

    asyncio.run(run())


@commands.command("resend", epilog=RESEND_EXAMPLES)
def resend_refused(
    lane: Annotated[int, typer.Argument(min=1, help="The lane that `tradesaga parked` names, before the slash.")],
    seq: Annotated[int, typer.Argument(min=1, help="The row's number, after the slash.")],
    *,
    service: Annotated[str, typer.Option("--service", help="The service whose database has the row.")] = SAGA_LOG,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Publish an outbox row that the broker had rejected, once it accepts the row."""
    settings = load_settings(directory)
    silence_libraries()

    async def run() -> None:
        async with session(settings.database_for(service), application_name="tradesaga resend") as sql:
            record, (partition, offset) = await resend(sql, settings, lane, seq)
        shown = {"id": record.id, "topic": record.topic, "partition": partition, "offset": offset, "key": record.key}
        print_result(shown, f"{record.type} is on {record.topic}[{partition}] at offset {offset}", as_json=as_json)

    asyncio.run(run())


def _validated(make: Callable[[], F]) -> F:
    """Make a fact from the arguments. Raises `CommandError` (exit 2) for an empty or too long reason or name."""
    try:
        return make()
    except ValidationError as error:
        first = first_invalid(error)
        option = f"--{first.path[0]}"
        raise CommandError("usage", first.reason, option, f"correct {option}", ExitCode.USAGE) from None


def _run(text: str, make: Making, directory: Path | None, *, wait: bool, as_json: bool) -> None:
    settings = load_settings(directory)
    silence_libraries()

    async def run() -> None:
        async with session(settings.database_for(SAGA_LOG), application_name="tradesaga desk") as sql:
            view = await open_saga(sql, settings, text)
            fact = make(view)
            published = await decide(settings, view, fact)
            await _report(sql, published, fact.NAME.removesuffix("-requested"), wait=wait, as_json=as_json)

    asyncio.run(run())


async def _report(sql: Connection, published: Published, what: str, *, wait: bool, as_json: bool) -> None:
    """Print that the decision is published and, with --wait, the saga's state once the saga log has processed it."""
    partition, offset = published.written
    shown: dict[str, Any] = {
        "saga_id": published.saga_id,
        "id": published.id,
        "topic": published.topic,
        "partition": partition,
        "offset": offset,
    }
    if wait:
        refusal = await wait_until_folded(sql, published.topic, published.written, _PATIENCE)
        if refusal:
            raise refused(published.saga_id, refusal)
        row = await read_row(sql, published.saga_id)
        shown["state"] = row["state"] if row is not None else None
    after = f"the saga is {shown['state']}" if wait else "see `tradesaga show` for the result"
    place = f"{published.topic}[{partition}] offset {offset}"
    print_result(shown, f"{what} is published for {published.saga_id} ({place}); {after}", as_json=as_json)
