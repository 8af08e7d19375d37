"""Errors for authors of sagas.

SagaError
├── DefinitionError      the definition can never work; raised at import
├── ContextMissingError  a handler reads an event that the saga does not have yet
└── OutcomeUnknownError  raised by a remote handler: the call may have taken effect; it is queried, never repeated
"""


class SagaError(Exception):
    """Base of this package's errors."""


class DefinitionError(SagaError):
    """The definition can never work; the message says what to change."""


class ContextMissingError(SagaError, LookupError):
    """The saga does not have this event yet; only those of earlier steps can be read."""


class OutcomeUnknownError(SagaError):
    """A remote call was not answered: whether it took effect is unknown until the remote system is queried."""
