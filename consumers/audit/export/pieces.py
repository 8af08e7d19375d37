"""A file of an export, read line by line beside the others: what comes next, and of which log it is."""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from tradesaga.consumers.audit.export.folder import ExportFolder
from tradesaga.consumers.audit.export.layout import FormatError
from tradesaga.consumers.audit.verify.verification import Report, Verdict

T = TypeVar("T")
Place = tuple[str, int]
_WRONG: Final = 1000
"""Unreadable lines of one file after which the rest is not read."""


class Pieces(Generic[T]):
    """The lines of one file; those that cannot be read are told, and passed over."""

    def __init__(
        self,
        report: Report,
        folder: ExportFolder,
        name: str,
        read: Callable[[bytes], T],
        place_of: Callable[[T], Place],
    ) -> None:
        self._report = report
        self._name = name
        self._read = read
        self._place_of = place_of
        self._lines = folder.lines(name)
        self._wrong = 0
        self.number = 0
        self.next: T | None = None
        self.place: Place | None = None
        self.advance()

    def advance(self) -> None:
        """Go on to the next line that can be read."""
        self.next = self.place = None
        try:
            for number, line in self._lines:
                self.number = number
                if self._take(line):
                    return
        except FormatError as error:
            self._report.add(Verdict.INCOMPLETE, self._name, f"{error}; what follows is not read")

    def _take(self, line: bytes) -> bool:
        try:
            self.next = self._read(line)
            self.place = self._place_of(self.next)
        except FormatError as error:
            self._wrong += 1
            if self._wrong > _WRONG:
                raise FormatError(f"more than {_WRONG:,} lines cannot be read") from error
            self._report.add(Verdict.ALTERED, f"{self._name} line {self.number}", str(error))
            return False
        return True

    def finish(self) -> None:
        """Tell of what is left: it belongs to no log of the export, or stands in the wrong place."""
        left = 0
        where = f"{self._name} line {self.number}"
        place = self.place
        while self.next is not None:
            left += 1
            self.advance()
        if left and place is not None:
            first = f"{place[0][:200]}[{place[1]}]"
            what = f"{left:,} lines are of no log of the manifest, or out of order; the first of {first}"
            self._report.add(Verdict.ALTERED, where, what)
