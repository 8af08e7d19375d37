"""What people decide: `tradesaga retry`, `compensate`, `abort`, `skip`, `recheck`, `resolve`, `release`, `resend`."""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar

import typer
from pydantic import ValidationError

from tradesaga.infra.cli.console import AsJson, Directory, Operator, Reason, print_result
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.facts import wait_until_folded
from tradesaga.infra.postgres.database import Connection, session
from tradesaga.infra.saga_queries import read_row
from tradesaga.infra.settings import SAGA_LOG, Settings, load_settings
from tradesaga.infra.telemetry.logs import silence_libraries
from tradesaga.producers.operator.actions import (
    Case,
    Published,
    decide,
    open_case,
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
Wait = Annotated[bool, typer.Option("--wait", help="Wait until the saga log has judged it.")]
_PATIENCE: Final = 30.0
RESEND_EXAMPLES: Final = "Example: `tradesaga parked`, then `tradesaga resend 5 12 --service risk`"
RECHECK_EXAMPLES: Final = 'Example: `tradesaga reconcile`, then `tradesaga recheck 5b0d1080 -m "its fill is forged"`'

F = TypeVar("F", bound=OperatorFact)
Making = Callable[[Case], OperatorFact]


class Outcome(StrEnum):
    """How a saga that is resolved by hand has ended."""

    ABORTED = "ABORTED"
    COMPLETED = "COMPLETED"


class Action(StrEnum):
    """What becomes of a parked record."""

    RETRY = "retry"
    DISCARD = "discard"


@commands.command(epilog="Example: `tradesaga retry 5b0d1080 -m 'the bank answers again'`")
def retry(
    saga: SagaArgument,
    *,
    reason: Reason,
    step: Step = None,
    operator: Operator = None,
    wait: Wait = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Run a failed step past the pivot, or a failed compensation, once more."""
    making = _of_step(step, RetryRequested, operator, reason)
    _run(saga, making, load_settings(directory), wait=wait, as_json=as_json)


@commands.command(epilog="Example: `tradesaga skip 5b0d1080 --step settle_trade -m 'settled by hand'`")
def skip(
    saga: SagaArgument,
    *,
    reason: Reason,
    step: Step = None,
    operator: Operator = None,
    wait: Wait = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Skip a failed compensation, or continue without a step that nobody owns.

    In the first case the saga stays FAILED until it is resolved. In the second you vouch that the step has not
    happened, and what was done is taken back.
    """
    making = _of_step(step, SkipRequested, operator, reason)
    _run(saga, making, load_settings(directory), wait=wait, as_json=as_json)


@commands.command(epilog="Example: `tradesaga abort 5b0d1080 -m 'wrong account'`")
def abort(
    saga: SagaArgument,
    *,
    reason: Reason,
    operator: Operator = None,
    wait: Wait = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Compensate a saga that is not past its pivot."""
    fact = _made(lambda: AbortRequested(operator=operator_name(operator), reason=reason))
    _run(saga, lambda _: fact, load_settings(directory), wait=wait, as_json=as_json)


@commands.command(epilog=RECHECK_EXAMPLES)
def recheck(
    saga: SagaArgument,
    *,
    reason: Reason,
    operator: Operator = None,
    wait: Wait = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Ask the owner of each step to report its result again, and compensate the saga unless it is past its pivot.

    For a saga that a forged fact holds open: what was said of its steps until now no longer counts.
    """
    fact = _made(lambda: RecheckRequested(operator=operator_name(operator), reason=reason))
    _run(saga, lambda _: fact, load_settings(directory), wait=wait, as_json=as_json)


@commands.command(epilog="Example: `tradesaga compensate 5b0d1080 -m 'wrong account'`")
def compensate(
    saga: SagaArgument,
    *,
    reason: Reason,
    operator: Operator = None,
    wait: Wait = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Compensate a saga; the same as `abort`."""
    abort(saga, reason=reason, operator=operator, wait=wait, directory=directory, as_json=as_json)


@commands.command(epilog="Example: `tradesaga resolve 5b0d1080 aborted -m 'cancelled by phone, see ticket 17'`")
def resolve(
    saga: SagaArgument,
    outcome: Annotated[Outcome, typer.Argument(case_sensitive=False, help="How it has really ended.")],
    *,
    reason: Reason,
    operator: Operator = None,
    wait: Wait = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Close a FAILED saga by hand; the reason names the evidence."""
    ended = outcome.value
    fact = _made(lambda: ResolveRequested(operator=operator_name(operator), reason=reason, outcome=ended))
    _run(saga, lambda _: fact, load_settings(directory), wait=wait, as_json=as_json)


@commands.command(
    "release", epilog="Example: `tradesaga release trade.events 3 1200 retry -m 'deployed the version that knows it'`"
)
def release_parked(
    topic: Annotated[str, typer.Argument(help="The parked record's topic.")],
    partition: Annotated[int, typer.Argument(min=0, help="The partition of the topic.")],
    offset: Annotated[int, typer.Argument(min=0, help="The offset in the partition.")],
    action: Annotated[Action, typer.Argument(help="Fold it and those behind it, or leave it out for good.")],
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
    released = _made(
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
    service: Annotated[str, typer.Option("--service", help="Whose database has the row.")] = SAGA_LOG,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Publish a row that the broker had refused for good, now that it takes it."""
    settings = load_settings(directory)
    silence_libraries()

    async def run() -> None:
        async with session(settings.database_for(service), application_name="tradesaga resend") as sql:
            record, (partition, offset) = await resend(sql, settings, lane, seq)
        told = {"id": record.id, "topic": record.topic, "partition": partition, "offset": offset, "key": record.key}
        print_result(told, f"{record.type} is on {record.topic}[{partition}] at offset {offset}", as_json=as_json)

    asyncio.run(run())


def _of_step(step: str | None, kind: type[RetryRequested | SkipRequested], operator: str | None, reason: str) -> Making:
    """Make a decision about the step that is named, or about the one that takes it."""
    name = operator_name(operator)

    def make(chosen: str) -> OperatorFact:
        return _made(lambda: kind(operator=name, reason=reason, step=chosen))

    return (lambda _: make(step)) if step else (lambda case: case.choose_step(make))


def _made(make: Callable[[], F]) -> F:
    """Make a fact of what the arguments say; raises `CommandError` (exit 2) for an empty or endless reason."""
    try:
        return make()
    except ValidationError as error:
        first = first_invalid(error)
        option = f"--{first.path[0]}"
        raise CommandError("usage", first.reason, option, "say who decides, and why, briefly", ExitCode.USAGE) from None


def _run(text: str, make: Making, settings: Settings, *, wait: bool, as_json: bool) -> None:
    silence_libraries()

    async def run() -> None:
        async with session(settings.database_for(SAGA_LOG), application_name="tradesaga desk") as sql:
            case = await open_case(sql, settings, text)
            fact = make(case)
            published = await decide(settings, case, fact)
            await _report(sql, published, fact.NAME.removesuffix("-requested"), wait=wait, as_json=as_json)

    asyncio.run(run())


async def _report(sql: Connection, published: Published, what: str, *, wait: bool, as_json: bool) -> None:
    """Print that the decision is published and, with --wait, the saga's state once the saga log has processed it."""
    partition, offset = published.written
    told: dict[str, Any] = {
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
        told["state"] = row["state"] if row is not None else None
    after = f"the saga is {told['state']}" if wait else "see `tradesaga show` for the result"
    place = f"{published.topic}[{partition}] offset {offset}"
    print_result(told, f"{what} is published for {published.saga_id} ({place}); {after}", as_json=as_json)
