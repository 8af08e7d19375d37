"""C: PostgreSQL is stopped at once, loses sessions, is slow, and commits without being heard."""

import asyncio

from tests.faults.stage import Stage

_TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name LIKE 'tradesaga %' ORDER BY random() LIMIT 3
"""


async def stop_immediately(stage: Stage) -> None:
    """Stop the server without a checkpoint, and start it on its log."""
    async with stage.fault("PostgreSQL: immediate stop and start"):
        await stage.database.crash()
        await asyncio.sleep(stage.chance.uniform(0.5, 2.0))
        await stage.database.start()


async def terminate_sessions(stage: Stage) -> None:
    """End sessions at random, some of them in the middle of a transaction."""
    async with stage.fault("pg_terminate_backend at random"):
        for _ in range(3):
            await stage.database.execute(_TERMINATE)
            await asyncio.sleep(stage.chance.uniform(0.2, 1.0))


async def swallow_commits(stage: Stage) -> None:
    """Let commits through and cut the connection in place of the answer: nobody knows what became of them."""
    members = stage.chance.sample(list(stage.crew.members.values()), 4)
    before = sum(member.postgres.swallowed for member in members)
    async with stage.fault(f"COMMIT unanswered for {', '.join(member.name for member in members)}"):
        for member in members:
            member.postgres.swallow_commits(2)
        await asyncio.sleep(3.0)
        for member in members:
            member.postgres.heal()
    stage.notes.swallowed += sum(member.postgres.swallowed for member in members) - before


async def be_slow(stage: Stage) -> None:
    """Answer half a second late for two seconds."""
    async with stage.fault("PostgreSQL: 500 ms late"):
        for member in stage.crew.members.values():
            member.postgres.delay = 0.25
        await asyncio.sleep(2.0)
        for member in stage.crew.members.values():
            member.postgres.heal()
