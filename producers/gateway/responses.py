"""Error responses of the HTTP API, and the reading of request bodies; an error has the shape that commands print."""

from collections.abc import Mapping
from typing import Any, Final

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from tradesaga.infra.errors import CommandError
from tradesaga.infra.outbox.outbox_writer import NotWrittenError, WriteUnknownError
from tradesaga.infra.postgres.database import DATABASE_ERRORS
from tradesaga.infra.starts.accept import StartInvalidError, read_start
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.messages.message import Event

_FIRST_ERROR: Final = 400
RETRY_LATER: Final = {"Retry-After": "1"}

_log = structlog.get_logger("gateway")


class Problem(BaseModel):
    """What was wrong, where, and what to do; `code` is a stable slug."""

    code: str
    what: str
    where: str
    do: str


class ErrorBody(BaseModel):
    """The body of every response with a status of 400 or above."""

    error: Problem


_MEANINGS: Final = {
    200: "A repeated request: the same trade",
    404: "No such saga is known",
    409: "The idempotency key belongs to another request",
    413: "The body is too long",
    415: "The body is not application/json",
    421: "This server has another name",
    422: "The request is invalid",
    429: "Too many sagas are in flight, or the pipeline lags: send the same request later",
    503: "A server does not answer: send the same request again",
}


def describe_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe responses for the OpenAPI document."""
    return {
        status: {"description": _MEANINGS[status]} | ({"model": ErrorBody} if status >= _FIRST_ERROR else {})
        for status in statuses
    }


class RequestError(Exception):
    """Ends a request with this status and error."""

    def __init__(self, status: int, error: CommandError, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(error))
        self.status = status
        self.error = error
        self.headers = headers


def add_handlers(app: FastAPI) -> None:
    """Make `app` answer every failure with an `ErrorBody`."""
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(RequestValidationError, _invalid_parameter)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(NotWrittenError, _not_written)
    app.add_exception_handler(WriteUnknownError, _unknown)
    for lost in DATABASE_ERRORS:
        app.add_exception_handler(lost, _database)
    app.add_exception_handler(Exception, _broken)


def _answer(status: int, error: CommandError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(error.as_json(), status, headers)


async def _request_error(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001 - Starlette's shape
    known: Any = error
    return _answer(known.status, known.error, known.headers)


async def _invalid_parameter(request: Request, error: Exception) -> JSONResponse:
    """Answer 422 with the name of the invalid query or path parameter."""
    known: Any = error
    first = known.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or request.url.path
    return _answer(422, CommandError("invalid", first["msg"], where, "correct it; /openapi.json has its schema"))


async def _no_route(request: Request, error: Exception) -> JSONResponse:
    known: Any = error
    where = f"{request.method} {request.url.path}"
    if known.status_code == 405:  # noqa: PLR2004
        wrong = CommandError("method-not-allowed", "this path does not accept the method", where, "see /openapi.json")
    else:
        wrong = CommandError("not-found", "there is nothing at this path", where, "see /openapi.json")
    return _answer(known.status_code, wrong, known.headers)


async def _not_written(request: Request, error: Exception) -> JSONResponse:
    do = "send the same request again; nothing has been stored"
    return _answer(503, CommandError("unavailable", str(error), request.url.path, do), RETRY_LATER)


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    do = "send the same request again: with the same key it is the same trade, whether it was stored or not"
    return _answer(503, CommandError("outcome-unknown", str(error), request.url.path, do), RETRY_LATER)


async def _database(request: Request, error: Exception) -> JSONResponse:
    _log.warning("database", path=request.url.path, why=f"{type(error).__name__}: {error}")
    wrong = CommandError("database-unavailable", "PostgreSQL does not answer", request.url.path, "try again")
    return _answer(503, wrong, RETRY_LATER)


async def _broken(request: Request, error: Exception) -> JSONResponse:
    _log.error("request failed", path=request.url.path, exc_info=error)
    wrong = CommandError(
        "unexpected", "the request failed because of an internal error", request.url.path, "look at the gateway's log"
    )
    return _answer(500, wrong)


_DO: Final = {
    "not-json": "send one JSON object, as UTF-8",
    "invalid": "correct the fields; /openapi.json has their schema",
}


async def read_body(request: Request, saga: AnySaga, limit: int) -> Event:
    """Read and validate the start in a request's body. Raises `RequestError` 413, 415 or 422."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        do = "send the request as JSON with Content-Type: application/json"
        what = f"the content type is {kind[:64] or 'missing'!r}"
        raise RequestError(415, CommandError("content-type", what, "Content-Type", do))
    text = await _read_bounded(request, limit)
    try:
        return read_start(saga, text, limit)
    except StartInvalidError as error:
        do = _DO.get(error.kind, "correct the request")
        raise RequestError(422, CommandError(error.kind, str(error), "body", do)) from None


async def _read_bounded(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    text = bytearray()
    try:
        async for chunk in request.stream():
            text += chunk
            if len(text) > limit:
                raise _too_large(limit)
    except ClientDisconnect:
        wrong = CommandError("cut-short", "the body ended early", "body", "send the whole body")
        raise RequestError(422, wrong) from None
    return bytes(text)


def _too_large(limit: int) -> RequestError:
    what, do = f"the body is longer than {limit} bytes", "send one trade with its own fields only"
    return RequestError(413, CommandError("too-large", what, "body", do), {"Connection": "close"})
