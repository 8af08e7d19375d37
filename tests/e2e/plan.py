"""What a start's plan makes of the handlers.

A plan's entry is a word, or a word and a number: `fail:2` fails the first two attempts and then does what it should.

refuse   return the refusal                        lost     (far side) take effect, then go unanswered
fail     raise                                     dropped  (far side) go unanswered without an effect
hang     never answer                              dark     (far side) `dropped`, and the first queries fail too
sql      break the SQL of the savepoint            wrong    return an event that is no answer of the step
cancelled raise CancelledError, as a library may
slow-sql wait in the database                      wait     (far side) say nothing until a test reports
big      answer more than fits                     shut     (`close`) raise until a test opens it
impossible (compensation) say it can never be done

A hanging remote call has taken effect, a hanging local one has not: its savepoint is rolled back.
"""

import asyncio

from tests.e2e import messages as m
from tradesaga.consumers.participant import CompensationImpossibleError, StepContext
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.errors import OutcomeUnknownError


class PlannedError(Exception):
    """A handler does what the plan says: it fails."""


def planned(ctx: StepContext, step_name: str) -> str:
    """Give the word of the plan that holds for this attempt; empty when the step is to do what it should."""
    word, _, number = ctx.get(m.Asked).plan.get(step_name, "").partition(":")
    return "" if number and ctx.attempt > int(number) else word


async def misbehave(word: str, sql: Connection | None) -> None:
    """Do what a plan asks of any handler."""
    if word == "fail":
        raise PlannedError("as planned")
    if word == "cancelled":
        raise asyncio.CancelledError
    if word == "hang":
        await asyncio.sleep(60)
    if word == "sql" and sql is not None:
        await sql.execute("SELECT 1 / 0")
    if word == "slow-sql" and sql is not None:
        await sql.execute("SELECT pg_sleep(60)")
    if word == "lost":
        raise OutcomeUnknownError("the line went dead")
    if word == "impossible":
        raise CompensationImpossibleError("it is beyond recall")


async def record(sql: Connection, ctx: StepContext, step_name: str, direction: str = "forward") -> None:
    """Take effect: one row, which stands only if the batch is committed and the savepoint is kept."""
    await sql.execute(
        "INSERT INTO effect (saga_id, step, direction, attempt) VALUES ($1, $2, $3, $4)",
        ctx.saga_id, step_name, direction, ctx.attempt,
    )  # fmt: skip
