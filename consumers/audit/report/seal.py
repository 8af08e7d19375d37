"""What seals a record: the first signed checkpoint that covers it, and whether the record is proven to be in it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Proof(StrEnum):
    """How far a seal has been checked."""

    PROVEN = "proven"
    UNPROVEN = "not_proven"
    UNCHECKED = "unchecked"
    NOT_YET = "not_yet"


@dataclass(frozen=True, slots=True)
class Seal:
    """One record's seal.

    `time` is when the checkpoint was signed, `clock_error` how far that machine's clock might have been off, both in
    nanoseconds (-1: nobody can tell); `why` says what is missing where it is not proven.
    """

    proof: Proof
    why: str = ""
    index: int = -1
    size: int = -1
    time: int = 0
    clock: str = ""
    clock_error: int = -1
    outside_tier: bool = False
    path: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give what `--json` prints; `path` is the inclusion proof of RFC 6962, in hex, from the leaf up."""
        if self.proof is Proof.NOT_YET or self.index < 0:
            return {"proof": self.proof, "why": self.why}
        return {
            "proof": self.proof,
            "why": self.why,
            "leaf": self.index,
            "checkpoint": self.size,
            "sealed_ns": self.time,
            "clock": self.clock,
            "clock_error_ns": self.clock_error,
            "outside_tier": self.outside_tier,
            "path": self.path,
        }


NOT_YET = Seal(Proof.NOT_YET, "no checkpoint covers it yet")
UNCHECKED = Seal(Proof.UNCHECKED, "the seals were not looked at")
