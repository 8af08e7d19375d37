"""Tells how long the seed's eleven took together: they are to stay below what they took before Kafka."""

import pytest
from _pytest.terminal import TerminalReporter

PREDECESSOR = 19.81
"""Seconds that the same eleven took without a broker and a database."""


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print the sum of their durations, the start of the services included."""
    reports: list[pytest.TestReport] = terminalreporter.getreports("passed")
    seed = [report for report in reports if "test_seed.py" in report.nodeid]
    if seed:
        total = sum(report.duration for report in seed)
        terminalreporter.write_line(f"the seed's tests: {total:.2f} s; their predecessors: {PREDECESSOR} s")
