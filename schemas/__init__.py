"""Wire formats: messages, the envelope in a record's headers, topics, and compatibility of changes."""

from tradesaga.schemas.messages.message import Compensation, Event

__all__ = ["Compensation", "Event"]
