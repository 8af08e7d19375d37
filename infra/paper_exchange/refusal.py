"""The errors of the API, with Binance's codes and texts, which clients such as ccxt match on."""

from typing import Final


class Refusal(Exception):  # noqa: N818 - an answer of the API, not a fault of the program
    """An answer that says no; `status` is HTTP's."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


INSUFFICIENT: Final = "Account has insufficient balance for requested action."
DUPLICATE: Final = "Duplicate order sent."


def missing(name: str) -> Refusal:
    """Refuse for a parameter that is not there, or empty."""
    return Refusal(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def illegal(name: str, legal: str) -> Refusal:
    """Refuse a parameter that has characters it may not have."""
    return Refusal(-1100, f"Illegal characters found in parameter '{name}'; legal range is '{legal}'.")


def outside_window() -> Refusal:
    """Refuse a request that comes after its timestamp plus recvWindow."""
    return Refusal(-1021, "Timestamp for this request is outside of the recvWindow.")


def ahead_of_time() -> Refusal:
    """Refuse a request from the future."""
    return Refusal(-1021, "Timestamp for this request was 1000ms ahead of the server's time.")


def no_order() -> Refusal:
    """Return the refusal for a query of an unknown order."""
    return Refusal(-2013, "Order does not exist.")


def unknown_order() -> Refusal:
    """Return the refusal for a cancel of an unknown or finished order."""
    return Refusal(-2011, "Unknown order sent.")


def status_unknown() -> Refusal:
    """Return the refusal for a request whose effect is unknown."""
    text = "Timeout waiting for response from backend server. Send status unknown; execution status unknown."
    return Refusal(-1007, text, 503)
