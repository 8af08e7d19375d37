"""`make mutants`: each mutant with the seed that caught it; exit 1 if one escapes, or if the shipped code fails."""

import subprocess
import sys
from pathlib import Path

from tests.mutants.catalogue import MUTANTS
from tests.mutants.hunt import Catch, control, hunt

WIDTH = max(len(mutant.name) for mutant in MUTANTS)
TOLD = 110
KINDS = {
    "test_sql_mutants": ("SQL", "by PostgreSQL, asked the same as before"),
    "test_money_mutants": ("money", "by the ledger, after an attack"),
    "test_rule_mutants": ("rule", "by the rule that is missing"),
}
"""What mutants that no simulation hunts are called, and by what they are caught, by the file that plants them."""


def tell(catch: Catch, seed: str) -> None:
    """Write one line of the table."""
    sys.stdout.write(f"{catch.name:{WIDTH}}  {seed:>6}  {catch.seconds:5.1f} s  {catch.evidence[:TOLD]}\n")
    sys.stdout.flush()


def hunt_in_postgresql() -> bool:
    """Hunt the mutants in SQL, of money and of pure rules; each line of the report names one.

    Return whether all were caught.
    """
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rA",
        "--tb=line",
        "-k",
        "gives_it_away",
        str(Path(__file__).parent / "test_sql_mutants.py"),
        str(Path(__file__).parent / "test_money_mutants.py"),
        str(Path(__file__).parent / "test_rule_mutants.py"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word in {"PASSED", "FAILED", "ERROR"}:
            name = rest.partition("[")[2].partition("]")[0].replace("_", " ")
            kind, caught = next(told for file, told in KINDS.items() if file in rest)
            told = caught if word == "PASSED" else "NOT CAUGHT"
            sys.stdout.write(f"{f'{name} ({kind})':{WIDTH}}  {told}\n")
    return done.returncode == 0


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
    return 0 if hunt_in_postgresql() and not escaped and sound.seed is None else 1


if __name__ == "__main__":
    sys.exit(main())
