"""What is on the wire: messages, the envelope in a record's headers, topics, and how they may change."""

from tradesaga.schemas.messages.message import Compensation, Event

__all__ = ["Compensation", "Event"]
