"""Output of a verification, on a terminal and as JSON."""

from typing import Any

from rich.console import Console
from rich.markup import escape

from tradesaga.consumers.audit.log.log_check import Report, Retired, Verdict
from tradesaga.infra.clock import format_time
from tradesaga.infra.reconciliation.facts import FactCheck


def as_json(report: Report) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "unaltered": report.holds(Verdict.ALTERED),
        "complete": report.holds(Verdict.INCOMPLETE),
        "rows": report.rows,
        "logs": report.logs,
        "checkpoints": report.checkpoints,
        "not_yet_sealed": report.unsealed,
        "unreadable": report.unreadable,
        "findings": [finding._asdict() for finding in report.findings],
        "further_findings": report.further,
        "retired": [_retired(each) for each in report.retired],
        "remarks": report.remarks,
        "forged_facts": None if report.facts is None else report.facts.as_json(),
    }


def show(report: Report) -> None:
    """Print a report; text of others is printed without being interpreted as markup."""
    console = Console()
    _show_counts(console, report)
    for verdict, word in ((Verdict.ALTERED, "unaltered"), (Verdict.INCOMPLETE, "complete")):
        holds = report.holds(verdict)
        console.print(f"{word:<10} {'[green]yes' if holds else '[bold red]NO'}")
    for finding in report.findings:
        console.print(f"[red]{finding.verdict}[/] {_plain(finding.where)}: {_plain(finding.what)}", highlight=False)
    if report.further:
        console.print(f"and {report.further:,} more")
    for each in report.retired:
        console.print(_plain(_told(each)), highlight=False)
    if report.facts is not None:
        _show_forged(console, report.facts)
    for remark in report.remarks:
        console.print(f"[yellow]note[/] {_plain(remark)}", highlight=False)


def _show_counts(console: Console, report: Report) -> None:
    console.print(f"{report.rows:,} records in {report.logs} logs, {report.checkpoints:,} checkpoints", highlight=False)
    if report.unsealed:
        console.print(f"{report.unsealed:,} of them are not sealed yet", highlight=False)
    if report.unreadable:
        console.print(
            f"could not read {report.unreadable:,} payloads: encrypted, or of an unknown type; their seals hold or fail"
            " all the same",
            highlight=False,
        )


def _show_forged(console: Console, facts: FactCheck) -> None:
    for each in facts.forged:
        console.print(f"[red]forged[/] {_plain(str(each))}", highlight=False)
    if (left := facts.count - len(facts.forged)) > 0:
        console.print(f"and {left:,} more forged facts", highlight=False)


def _retired(each: Retired) -> dict[str, Any]:
    return {
        "action": each.number,
        "at": format_time(each.at),
        "operator": each.operator,
        "reason": each.reason,
        "records": each.records,
        "complete_from": dict(each.offsets),
    }


def _told(each: Retired) -> str:
    begins = ", ".join(f"{offset} of {origin}" for origin, offset in sorted(each.offsets.items()))
    what = f"{each.records:,} records retired on {format_time(each.at)[:19]} by {each.operator}: {each.reason}"
    return f"{what}; complete from offset {begins}"


def _plain(text: str) -> str:
    return escape("".join(each if each.isprintable() else repr(each)[1:-1] for each in text))
