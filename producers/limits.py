"""How much the gateway takes in before it says that it is too busy."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Limits(BaseSettings):
    """Each from TRADESAGA_GATEWAY_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="TRADESAGA_GATEWAY_", frozen=True, extra="ignore")

    body_bytes: Annotated[int, Field(ge=256)] = 16 * 1024
    in_flight: Annotated[int, Field(ge=1)] = 10_000
    """Sagas that have started and not ended."""
    lag_seconds: Annotated[float, Field(gt=0)] = 10.0
    """How far the saga log or the intake may be behind before nothing new is begun, here or by `tradesaga start`."""
    waiting: Annotated[int, Field(ge=1)] = 2_000
    """Requests that wait for a transaction."""
    patience_seconds: Annotated[float, Field(gt=0)] = 5.0
    """How long a request waits for a transaction before it is answered 503."""
