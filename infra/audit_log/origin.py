"""The name of one sealed log: which installation, which topic, which partition."""

from typing import NamedTuple

from tradesaga.infra.audit_log.note import NoteError


class Origin(NamedTuple):
    """The log of one partition; `log_id` names the installation, and holds neither spaces nor line ends."""

    log_id: str
    topic: str
    partition: int

    def __str__(self) -> str:
        """Write it as checkpoints have it."""
        return f"{self.log_id}/{self.topic}/{self.partition}"

    @classmethod
    def parse(cls, text: str) -> "Origin":
        """Read what `str` wrote; raises `NoteError`."""
        log_id, _, rest = text.rpartition("/")[0].rpartition("/")
        partition = text.rpartition("/")[2]
        if not log_id or not rest or not partition.isascii() or not partition.isdigit():
            raise NoteError(f"{text!r} is no origin of ours: log id / topic / partition")
        return cls(log_id, rest, int(partition))
