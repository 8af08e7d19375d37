"""One service of a test saga as a process of its own: `python -m tests.e2e.service desk | port | log | intake`.

The saga's name comes from the environment, the servers as for any service.
"""

import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import typer
import uvloop

from tests.e2e.far import FarSide
from tests.e2e.sagas import Kit, make_kit
from tests.keys import KEYS
from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.consumers.runtime import service as participants
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.cli.failures import describe
from tradesaga.infra.cli.run import serve
from tradesaga.infra.errors import CommandError
from tradesaga.infra.outbox.processor import Processor
from tradesaga.infra.outbox.worker import Worker
from tradesaga.infra.postgres.database import open_pool
from tradesaga.infra.settings import Settings, load_settings

NAME = "TEST_SAGA"
ATTEMPT = 1.5
"""Seconds of an attempt: enough for a machine that is busy starting processes."""


def kit(far: FarSide) -> Kit:
    """Define the saga that the environment names."""
    return make_kit(os.environ[NAME], far, patience=ATTEMPT)


async def participate(name: str, settings: Settings) -> None:
    """Run a participant, its far side on connections of its own."""
    async with await open_pool(settings.database_for(), max_size=4) as pool:
        whole = kit(FarSide(pool))
        await participants.serve(whole.desk if name == "desk" else whole.port, settings)


async def work(name: str, settings: Settings) -> None:
    """Run the saga log, or intake."""
    async with await open_pool(settings.database_for(), max_size=4) as pool:
        saga = kit(FarSide(pool)).saga
        processor: Processor = SagaLog(Rules(saga)) if name == "log" else Intake(saga, KEYS)
        owner = f"{name}:{os.getpid()}"
        await Worker(processor, pool, settings.brokers(), owner, session_ms=settings.session_timeout_ms).run()


Service = Callable[[str, Settings], Awaitable[None]]
KINDS: Mapping[str, Service] = {"desk": participate, "port": participate, "log": work, "intake": work}


def main(kinds: list[str]) -> None:
    """Run services until a signal ends them; an error is one sentence and an exit code."""
    chosen: dict[str, Callable[[Settings], Awaitable[None]]] = {kind: partial(KINDS[kind], kind) for kind in kinds}
    try:
        uvloop.run(serve(chosen, load_settings()))
    except CommandError as error:
        _fail(error)
    except Exception as error:  # noqa: BLE001 - as the product's own command line does
        _fail(describe(error))


def _fail(error: CommandError) -> None:
    typer.echo(str(error), err=True)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    typer.run(main)
