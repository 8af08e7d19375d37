"""`make mutants`: each mutant with the seed that caught it; exit 1 if one escapes, or if the shipped code fails."""

import sys

from tests.mutants.catalogue import MUTANTS
from tests.mutants.hunt import Catch, control, hunt

WIDTH = max(len(mutant.name) for mutant in MUTANTS)
TOLD = 110


def tell(catch: Catch, seed: str) -> None:
    """Write one line of the table."""
    sys.stdout.write(f"{catch.name:{WIDTH}}  {seed:>6}  {catch.seconds:5.1f} s  {catch.evidence[:TOLD]}\n")
    sys.stdout.flush()


def main() -> int:
    """Hunt each mutant, then run the control."""
    sys.stdout.write(f"{'mutant':{WIDTH}}  {'seed':>6}  {'took':>7}  caught by\n")
    catches: list[Catch] = []
    for mutant in MUTANTS:
        catches.append(hunt(mutant))
        tell(catches[-1], "-" if catches[-1].seed is None else str(catches[-1].seed))
    sound = control(catches)
    tell(sound, "none" if sound.seed is None else str(sound.seed))
    escaped = [catch.name for catch in catches if catch.seed is None]
    if escaped:
        sys.stdout.write(f"escaped: {', '.join(escaped)}\n")
    return 1 if escaped or sound.seed is not None else 0


if __name__ == "__main__":
    sys.exit(main())
