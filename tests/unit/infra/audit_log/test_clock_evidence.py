"""What is known of the sealing machine's clock, from what chrony and ptp4l print, and what is told of it."""

import asyncio
import json
import math
import re
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from pydantic import ValidationError
from structlog.testing import capture_logs

from tradesaga.consumers.audit.seal.service import ClockWatch
from tradesaga.infra.audit_log.clock_evidence import (
    ClockEvidence,
    ClockTally,
    ClockTier,
    choose,
    parse_pmc_output,
    parse_tracking,
    read_clock,
)
from tradesaga.infra.local_stack.ports import free_port
from tradesaga.infra.settings import Settings
from tradesaga.infra.telemetry import health as probes
from tradesaga.infra.telemetry import metrics
from tradesaga.infra.telemetry.metrics import Health

TRACKING = (
    "A29FC801,162.159.200.1,4,1763900000.123456789,-0.000012345,0.000001234,0.000023456,-8.123,0.001,0.045,"
    "0.004000000,0.000500000,64.2,Normal\n"
)
SLAVE = (Path(__file__).parent / "pmc-slave.txt").read_text(encoding="utf-8")
KERNEL = ClockEvidence("kernel", 250_000)
LOST = ClockEvidence("kernel", -1)


def test_the_bound_of_chrony() -> None:
    """|offset| + root dispersion + half the root delay; none where it follows nobody or says what cannot be."""
    assert parse_tracking(TRACKING) == ClockEvidence("chrony", 12_345 + 500_000 + 2_000_000)
    assert parse_tracking(TRACKING.replace("Normal", "Not synchronised")) == ClockEvidence("chrony", -1)
    assert parse_tracking(TRACKING.replace("0.000500000", "nan")) == ClockEvidence("chrony", -1)
    assert parse_tracking("506 Cannot talk to daemon\n") is None


def test_the_bound_of_ptp() -> None:
    """|offset| + mean path delay + what the grandmaster claims, from what linuxptp's pmc prints of a slave."""
    assert parse_pmc_output(SLAVE) == 1356 + 2409 + 100
    assert parse_pmc_output(SLAVE.replace("0x21", "0xfe")) == -1
    assert parse_pmc_output(SLAVE.replace("SLAVE", "UNCALIBRATED")) == -1
    assert parse_pmc_output(SLAVE.replace("-1356.0", "far")) == -1


def test_a_clock_that_ptp_does_not_keep_is_none_of_its_business() -> None:
    """A grandmaster, a port without a link, and a daemon that does not answer say nothing of this clock."""
    for state in ("MASTER", "GRAND_MASTER", "FAULTY", "LISTENING"):
        assert parse_pmc_output(SLAVE.replace("SLAVE", state)) is None
    assert parse_pmc_output("sending: GET CURRENT_DATA_SET\nsending: GET PORT_DATA_SET\n") is None


def test_whoever_bounds_the_error_is_believed() -> None:
    """Chrony before PTP before the kernel; a bound before none; PTP only while the kernel's clock follows it."""
    chrony, ptp = ClockEvidence("chrony", 2_000_000), ClockEvidence("ptp", 3865)
    assert choose(chrony, ptp, KERNEL) == chrony
    assert choose(ClockEvidence("chrony", -1), ptp, KERNEL) == ptp
    assert choose(None, ptp, KERNEL) == ptp
    assert choose(None, ptp, LOST) == ClockEvidence("ptp", -1)
    assert choose(None, None, KERNEL) == KERNEL
    assert choose(ClockEvidence("chrony", -1), None, KERNEL) == ClockEvidence("chrony", -1)


def test_programs_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands first in the path under their names is run, and what it prints is read; a failing one is passed."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "tracking").write_text(TRACKING)
    program = tmp_path / "chronyc"
    program.write_text(f'#!/bin/sh\n[ "$*" = "-c tracking" ] && cat {tmp_path}/tracking\n')
    program.chmod(0o755)
    assert read_clock() == ClockEvidence("chrony", 2_512_345)
    program.write_text("#!/bin/sh\nexit 1\n")
    assert read_clock().source in {"ptp", "kernel", "unknown"}


@pytest.mark.parametrize(
    ("text", "bound"),
    [("100 us", 100_000), ("1 ms", 10**6), ("50ms", 50 * 10**6), ("1 s", 10**9), ("2.5", 2_500_000), ("off", None)],
)
def test_a_tier_is_written_as_people_write_it(text: str, bound: int | None) -> None:
    """And read back from what it is written as."""
    tier = ClockTier.parse(text)
    assert tier.bound == bound
    assert ClockTier.parse(str(tier)) == tier


@pytest.mark.parametrize("text", ["", "fast", "-1 ms", "0", "1 h", "9999999 s", "1e3 ms"])
def test_a_tier_that_is_none_is_refused(text: str) -> None:
    """At the start of the process, with what to write instead."""
    with pytest.raises(ValidationError, match="bound"):
        Settings(audit_clock_tier=text)


def test_what_is_outside() -> None:
    """More than the bound, and a clock of which nobody can tell; nothing where no tier is set."""
    tier = ClockTier.parse("50 ms")
    assert [tier.exceeded(error) for error in (0, 50 * 10**6, 50 * 10**6 + 1, -1)] == [False, False, True, True]
    assert not ClockTier().exceeded(-1)


def test_the_checkpoints_outside_are_counted() -> None:
    """In one sentence, with the worst of them; none is no sentence."""
    tally = ClockTally(ClockTier.parse("50 ms"))
    tally.take(1, 10)
    assert str(tally) == ""
    for time, error in ((2, 60 * 10**6), (3, -1), (4, 120_500_000)):
        tally.take(time, error)
    assert (tally.first, tally.last) == (2, 4)
    said = "3 checkpoints were signed while the clock was outside 50 ms, 120.5 ms at worst"
    assert str(tally) == f"{said} (1 of them unknown)"
    tally = ClockTally(ClockTier.parse("50 ms"))
    tally.take(1, -1)
    assert str(tally) == "1 checkpoint was signed while it was unknown whether the clock was within 50 ms"


def test_a_clock_that_leaves_its_tier_is_told_once() -> None:
    """One line when it goes and one when it is back; the metrics and the warning are those of the last reading."""
    watch = ClockWatch(ClockTier.parse("1 ms"), Health())
    with capture_logs() as lines:
        for error in (10, 2_000_000, 3_000_000, -1):
            watch.see(ClockEvidence("chrony", error))
            assert REGISTRY.get_sample_value("tradesaga_clock_outside_tier") == (error != 10)
        assert math.isnan(REGISTRY.get_sample_value("tradesaga_clock_error_seconds") or 0)
        assert "the clock's error is unknown" in watch.health.warning
        watch.see(ClockEvidence("chrony", 10))
    assert [line["log_level"] for line in lines] == ["warning", "info"]
    assert "2 ms" in lines[0]["why"]
    assert watch.health.warning == ""


async def test_readyz_warns_and_stays_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is no reason to stop sealing: the answer is 200, with the warning in it."""
    health = Health(ready=True)
    monkeypatch.setattr(metrics, "workers", lambda: {"audit-sealer": health})
    ClockWatch(ClockTier.parse("1 ms"), health).see(ClockEvidence("kernel", -1))
    assert probes.readiness()[0]
    port = free_port()
    async with probes.serve_probes("127.0.0.1", port):
        body = await _fetch(port)
    assert re.search("the clock's error is unknown", json.loads(body)["warnings"]["audit-sealer"])


async def _fetch(port: int) -> str:
    def get() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            assert answer.status == 200
            return answer.read().decode()

    return await asyncio.to_thread(get)
