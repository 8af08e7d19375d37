"""Errors of Kafka and their translation."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from aiokafka.errors import InvalidTimestampError, KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

REFUSALS: Final = (MessageSizeTooLargeError, RecordListTooLargeError, InvalidTimestampError)
"""Errors with which the broker rejects a record for good, whoever sends it."""


class KafkaUnavailableError(Exception):
    """The broker did not answer, or did not accept a record; what was sent may or may not have arrived."""


@contextmanager
def translated_errors(where: str = "") -> Generator[None]:
    """Raise `KafkaUnavailableError` for errors of aiokafka and of the network; `where` begins the message."""
    try:
        yield
    except (KafkaError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise KafkaUnavailableError(f"{where}: {reason}" if where else reason) from error
