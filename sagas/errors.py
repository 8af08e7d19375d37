"""The errors a saga's author meets.

SagaError
├── DefinitionError      the saga as written can never work        raised at import
├── ContextMissingError  a handler asks for a fact its saga has not had
└── OutcomeUnknownError  raised by a remote handler: it may or may not have happened; the owner asks, never repeats
"""


class SagaError(Exception):
    """Root of the errors of this package."""


class DefinitionError(SagaError):
    """The saga as written can never work; the message says what to change."""


class ContextMissingError(SagaError, LookupError):
    """The saga has no such fact yet; only facts of earlier steps can be asked for."""


class OutcomeUnknownError(SagaError):
    """A remote call went unanswered: its effect is unknown until the far side is asked."""
