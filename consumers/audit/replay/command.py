"""The command `tradesaga audit replay`: compare, show a time in the past, or follow."""

import asyncio
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
import uvloop
from rich.console import Console
from rich.progress import Progress

from tradesaga.consumers.audit.options import audit_session, command_settings, progress_bar
from tradesaga.consumers.audit.replay import auditor, display
from tradesaga.consumers.audit.replay.as_of import AsOfReplay
from tradesaga.consumers.audit.replay.auditor import AuditPass
from tradesaga.consumers.audit.replay.comparison import Comparison, ReplayReport
from tradesaga.consumers.audit.replay.differences import Difference
from tradesaga.consumers.audit.replay.request import AsOf, Request, TimeSource
from tradesaga.consumers.audit.replay.state import Identity, ProgressReporter, ReplayState
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.cli.console import AsJson, Directory
from tradesaga.infra.clock import format_time
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.garbage_collection import tune_garbage_collector
from tradesaga.infra.kafka.admin import count_partitions, read_cluster_id
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.registry.sagas import find_saga
from tradesaga.infra.settings import Settings

SAVE_EVERY: Final = 5.0
"""Seconds between saves of a replay that can be resumed."""

At = Annotated[str | None, typer.Option("--at", help="Show all sagas as of this TIME: ISO 8601 with a zone.")]
Clock = Annotated[
    TimeSource | None, typer.Option("--clock", help="With --at: by event time, or by the time of recording.")
]
OfSaga = Annotated[str | None, typer.Option("--id", help="With --at: only this saga.")]
Since = Annotated[str | None, typer.Option("--from", help="Compare records from this TIME, by the broker's clock.")]
Until = Annotated[str | None, typer.Option("--to", help="Compare records before this TIME.")]
Offsets = Annotated[list[str] | None, typer.Option("--offsets", help="topic[3]=100..200; may be repeated.")]
Resume = Annotated[Path | None, typer.Option("--resume", help="Resume from this file, and save to it regularly.")]
Follow = Annotated[bool, typer.Option("--follow", help="Follow the topics until something differs, or Ctrl-C.")]
Limit = Annotated[int, typer.Option("--limit", min=0, help="With --at: the number of sagas to show; 0 for all.")]


@dataclass
class Run:
    """The context of a replay: topics, rules of the saga, cluster id and progress bar."""

    settings: Settings
    request: Request
    rules: Rules
    topics: TopicReader
    cluster: str
    progress: Progress

    def replay_state(self, purpose: str) -> ReplayState:
        """Open the state in the file of --resume, or in memory."""
        return ReplayState(self.request.resume, Identity.of(self.rules, self.cluster, purpose), self.rules)

    def reporter(self, text: str, replay_state: ReplayState) -> ProgressReporter:
        """Return a reporter that shows progress and saves the state regularly."""
        task, saved = self.progress.add_task(text, total=None), time.monotonic()

        def advance(count: int) -> None:
            nonlocal saved
            self.progress.advance(task, count)
            if self.request.resume is not None and time.monotonic() - saved >= SAVE_EVERY:
                replay_state.save()
                saved = time.monotonic()

        return ProgressReporter(lambda total: self.progress.update(task, total=total), advance)


@asynccontextmanager
async def _running(settings: Settings, request: Request, rules: Rules) -> AsyncGenerator[Run]:
    brokers = settings.brokers()
    counts = await count_partitions(brokers, [rules.topic])
    cluster = await read_cluster_id(brokers)
    async with TopicReader(brokers) as topics:
        with progress_bar() as progress:
            yield Run(settings, request, Rules(rules.saga, counts[rules.topic]), topics, cluster, progress)


async def _compare(run: Run) -> ReplayReport:
    asked = run.request.range(run.rules.topic, run.rules.partitions)
    with run.replay_state(f"comparison {asked}") as replay_state:
        async with audit_session(run.settings) as sql:
            reporter = run.reporter("replaying", replay_state)
            return await Comparison(sql, run.topics, run.rules, replay_state, reporter, asked).run()


def replay(
    *,
    saga: Annotated[str, typer.Option("--saga", help="The saga.")] = "trade",
    at: At = None,
    clock: Clock = None,
    saga_id: OfSaga = None,
    since: Since = None,
    until: Until = None,
    offsets: Offsets = None,
    resume: Resume = None,
    follow: Follow = False,
    limit: Limit = 20,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Fold the topics again and compare the result with the database, field by field; exit 1 if they differ.

    With --at, show the sagas as of a time instead; no database is needed. Nothing is published, and nothing is written
    except the file of --resume. Services may run meanwhile.
    """
    request = Request(at, clock, saga_id, since, until, tuple(offsets or ()), resume, follow)
    request.check()
    as_of = request.as_of()
    settings = command_settings(directory)
    rules = Rules(find_saga(saga, settings.app))
    tune_garbage_collector()
    if follow:
        fine = uvloop.run(_follow(settings, rules, resume, as_json=as_json))
    else:
        fine = uvloop.run(_replay(settings, request, rules, as_of, limit, as_json=as_json))
    if not fine:
        raise typer.Exit(ExitCode.CHECK_FAILED)


async def _replay(
    settings: Settings, request: Request, rules: Rules, as_of: AsOf | None, limit: int, *, as_json: bool
) -> bool:
    """Compare or show a time in the past; return whether nothing differs or is missing."""
    async with _running(settings, request, rules) as run:
        if as_of is None:
            report = await _compare(run)
            run.progress.stop()
            display.show_report(report, as_json=as_json)
            return not report.differing
        with run.replay_state(str(as_of)) as replay_state:
            known = await AsOfReplay(
                run.topics, run.rules, replay_state, as_of, run.reporter("replaying", replay_state)
            ).run()
            run.progress.stop()
            if as_of.saga_id is not None and not known.sagas + known.unstarted:
                raise _unheard(as_of)
            display.show_known(run.rules, as_of, known, replay_state, limit, as_json=as_json)
            return not known.gone


async def _follow(settings: Settings, rules: Rules, resume: Path | None, *, as_json: bool) -> bool:
    """Follow until something differs or a signal arrives; return whether nothing differs."""
    found: list[Difference] = []
    stop, console = asyncio.Event(), Console(stderr=True, quiet=as_json)
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    with console.status("following") as status:

        def see(look: AuditPass) -> None:
            status.update(f"{look.lag:,} records behind the head, nothing differs")
            found.extend(look.fresh)
            if found:
                stop.set()

        work = asyncio.ensure_future(auditor.follow(settings, rules.saga, lambda _: resume, see))
        ended = asyncio.ensure_future(stop.wait())
        await asyncio.wait([work, ended], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            await asyncio.wait([work])
    ended.cancel()
    if not work.cancelled() and (error := work.exception()) is not None:
        raise error
    display.show_found(found, as_json=as_json)
    return not found


def _unheard(as_of: AsOf) -> CommandError:
    what = f"nothing is known of saga {as_of.saga_id} at {format_time(as_of.at)}"
    do = "give a later time, or the right id: `tradesaga list` has it"
    return CommandError("not-found", what, "--id", do, ExitCode.NOT_FOUND)
