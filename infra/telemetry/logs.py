"""Logging: one line per event on stderr, as JSON or text, with bound context (saga, step) and without secrets."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final, Literal

import structlog

_SECRET: Final = re.compile(r"pass(word)?|secret|token|authorization|api_?key|dsn|database_url|private", re.IGNORECASE)
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]*(?=@)")
_LIBRARIES: Final = ("aiokafka", "asyncio", "alembic", "uvicorn", "ccxt")
HIDDEN: Final = "[hidden]"
LENGTH_LIMIT: Final = 16 * 1024
"""Maximum characters of one value; errors may quote untrusted input."""

Line = MutableMapping[str, Any]


def configure_logs(level: str = "INFO", form: Literal["text", "json"] = "json") -> None:
    """Log to stderr; libraries from WARNING on."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    plain = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    renderer = structlog.processors.JSONRenderer(default=str) if form == "json" else plain
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)


def silence_libraries() -> None:
    """Discard the logs of libraries, so that a command's stderr has only its own message."""
    for name in _LIBRARIES:
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


def redact(logger: object, method: str, line: Line) -> Line:  # noqa: ARG001 - structlog's shape
    """Hide values under secret-looking names and credentials in URLs; truncate long values."""
    for name, value in line.items():
        if isinstance(value, str) and len(value) > LENGTH_LIMIT:
            value = line[name] = f"{value[:LENGTH_LIMIT]}... ({len(value)} characters)"  # noqa: PLW2901
        if _SECRET.search(name):
            line[name] = HIDDEN
        elif isinstance(value, str) and "://" in value:
            line[name] = _CREDENTIALS.sub(HIDDEN, value)
    return line
