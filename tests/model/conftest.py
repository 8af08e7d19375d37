"""Tells how many states the model has visited."""

import pytest
from _pytest.terminal import TerminalReporter


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print the number for each play, as its test has recorded it."""
    reports: list[pytest.TestReport] = terminalreporter.getreports("passed")
    counts = {
        report.nodeid.partition("[")[2].rstrip("]"): int(str(value))
        for report in reports
        for name, value in report.user_properties
        if name == "states"
    }
    if counts:
        told = ", ".join(f"{play} {count:,}" for play, count in counts.items())
        terminalreporter.write_line(f"states of the model visited: {sum(counts.values()):,} ({told})")
