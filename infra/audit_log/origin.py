"""The origin of a sealed log: installation, topic and partition."""

from typing import NamedTuple

from tradesaga.infra.audit_log.note import NoteError


class Origin(NamedTuple):
    """The log of one partition; `log_id` names the installation, without spaces or line ends."""

    log_id: str
    topic: str
    partition: int

    def __str__(self) -> str:
        """Return the origin line of checkpoints."""
        return f"{self.log_id}/{self.topic}/{self.partition}"

    @classmethod
    def parse(cls, text: str) -> "Origin":
        """Parse what `str` returned. Raises `NoteError`."""
        log_id, _, rest = text.rpartition("/")[0].rpartition("/")
        partition = text.rpartition("/")[2]
        if not log_id or not rest or not partition.isascii() or not partition.isdigit():
            raise NoteError(f"{text!r} is not an origin of the form log id / topic / partition")
        return cls(log_id, rest, int(partition))
