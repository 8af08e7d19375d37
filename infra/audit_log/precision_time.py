"""Parses what linuxptp's `pmc` reports on a clock that PTP (IEEE 1588) synchronises."""

import re
from typing import Final

PMC_COMMANDS: Final = ("GET CURRENT_DATA_SET", "GET PARENT_DATA_SET", "GET PORT_DATA_SET")
_FIELD: Final = re.compile(r"[ \t]+([\w.]+)[ \t]+(\S+)[ \t]*")
_FOLLOWS: Final = frozenset({"SLAVE", "UNCALIBRATED"})
_ACCURACY: Final = dict(
    enumerate(
        (25, 100, 250, 1000, 2500, 10_000, 25_000, 100_000, 250_000, 10**6, 2_500_000, 10**7, 25 * 10**6, 10**8,
         25 * 10**7, 10**9, 10**10), start=0x20,
    )
)  # fmt: skip
"""Nanoseconds by clockAccuracy, IEEE 1588-2008 table 6; other values give no bound."""


def parse_pmc_output(text: str) -> int | None:
    """Return the error bound in nanoseconds, -1 if unknown, None if PTP does not synchronise this clock.

    The bound is |offset from the master| + the mean path delay, which no asymmetry of the path exceeds, + the accuracy
    that the grandmaster claims. A clock without a master is synchronised by something else.
    """
    fields = [(found[1], found[2]) for line in text.splitlines() if (found := _FIELD.fullmatch(line))]
    states = {value for name, value in fields if name == "portState"}
    if not states & _FOLLOWS:
        return None
    values = dict(fields)
    try:
        offset, delay = float(values["offsetFromMaster"]), float(values["meanPathDelay"])
        accuracy = _ACCURACY[int(values["gm.ClockAccuracy"], 16)]
        steps = int(values["stepsRemoved"])
    except (KeyError, ValueError):
        return -1
    if steps < 1 or "SLAVE" not in states:
        return -1
    return round(abs(offset) + abs(delay)) + accuracy
