"""A request's body: bounded while it is read, then judged as strictly as a start from anywhere else."""

from typing import Final

from starlette.requests import ClientDisconnect, Request

from tradesaga.infra.starts.accept import StartInvalidError, read_start
from tradesaga.producers.gateway.refusal import Refusal, refuse
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.messages.message import Event

_DO: Final = {
    "not-json": "send one JSON object, as UTF-8",
    "invalid": "correct the fields; /openapi.json has their schema",
}


async def read_body(request: Request, saga: AnySaga, limit: int) -> Event:
    """Read the start that a request carries; raises `Refusal` 413, 415 or 422."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        do = "send the request as JSON with Content-Type: application/json"
        raise refuse(415, "content-type", f"the content type is {kind[:64] or 'missing'!r}", "Content-Type", do)
    text = await _read_bounded(request, limit)
    try:
        return read_start(saga, text, limit)
    except StartInvalidError as error:
        raise refuse(422, error.kind, str(error), "body", _DO.get(error.kind, "correct the request")) from None


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
        raise refuse(422, "cut-short", "the body ended early", "body", "send the whole body") from None
    return bytes(text)


def _too_large(limit: int) -> Refusal:
    what = f"the body is longer than {limit} bytes"
    return refuse(413, "too-large", what, "body", "send one trade with its own fields only", Connection="close")
