"""How much the gateway takes in before it says that it is too busy."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Limits(BaseSettings):
    """Each from TRADESAGA_GATEWAY_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="TRADESAGA_GATEWAY_", frozen=True, extra="ignore")

    body_bytes: Annotated[int, Field(ge=256)] = 16 * 1024
    """Largest body of a request, in bytes."""
    in_flight: Annotated[int, Field(ge=1)] = 10_000
    """Open sagas at which the API answers 429."""
    lag_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Seconds that the saga log or the intake may lag before the API answers 429 and `tradesaga start` exits 5."""
    waiting: Annotated[int, Field(ge=1)] = 2_000
    """Requests waiting to be stored at which the API answers 429."""
    patience_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Seconds for which a request waits to be stored before the API answers 503."""
