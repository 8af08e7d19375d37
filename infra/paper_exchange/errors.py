"""Errors of the API, with Binance's codes and texts, which clients such as ccxt match on."""

from enum import Enum


class Error(Enum):
    """The errors that can be answered: code, text and, unless 400, HTTP status; `{}` in a text stands for a value."""

    UNKNOWN = (-1000, "An unknown error occurred while processing the request.", 500)
    STATUS_UNKNOWN = (
        -1007,
        "Timeout waiting for response from backend server. Send status unknown; execution status unknown.",
        503,
    )
    FILTER_FAILURE = (-1013, "Filter failure: {}")
    NOT_SUPPORTED = (-1020, "This operation is not supported: {}.")
    NOT_FOUND = (-1020, "This operation is not supported: {}.", 404)
    OUTSIDE_WINDOW = (-1021, "Timestamp for this request is outside of the recvWindow.")
    AHEAD_OF_TIME = (-1021, "Timestamp for this request was 1000ms ahead of the server's time.")
    BAD_SIGNATURE = (-1022, "Signature for this request is not valid.")
    ILLEGAL = (-1100, "Illegal characters found in parameter '{}'; legal range is '{}'.")
    TOO_MANY_PARAMETERS = (-1101, "Too many parameters sent for this endpoint.")
    DUPLICATE_PARAMETER = (-1101, "Duplicate values for a parameter detected.")
    BODY_TOO_LONG = (-1101, "Body is longer than {} bytes.", 413)
    REQUEST_TOO_LONG = (-1101, "Request is longer than {} characters.")
    MISSING = (-1102, "Mandatory parameter '{}' was not sent, was empty/null, or malformed.")
    DISCONNECTED = (-1102, "Client disconnected before the end of the body.")
    NOT_REQUIRED = (-1106, "Parameter '{}' sent when not required.")
    ACCOUNT_TAKEN = (-1109, "Invalid account: '{}' or its key is taken.", 409)
    UNKNOWN_ACCOUNT = (-1109, "Invalid account.", 404)
    OTHER_ACCOUNT = (-1109, "This connection is already subscribed to another account.")
    TOO_PRECISE = (-1111, "Precision is over the maximum defined for this asset.")
    BAD_TIME_IN_FORCE = (-1115, "Invalid timeInForce.")
    BAD_TYPE = (-1116, "Invalid type.")
    BAD_SIDE = (-1117, "Invalid side.")
    BAD_INTERVAL = (-1120, "Invalid interval; {} has {} bars alone.")
    BAD_SYMBOL = (-1121, "Invalid symbol.")
    BAD_LISTEN_KEY = (-1125, "This listenKey does not exist.")
    INVALID = (-1130, "Data sent for parameter '{}' is not valid.")
    INVALID_BODY = (-1130, "Data sent for parameter '{}' is not valid: {}.")
    WINDOW_TOO_LONG = (-1131, "recvWindow must be less than 60000")
    NOT_JSON = (-1135, "Request is not a JSON object.")
    BAD_RESPONSE_TYPE = (-1136, "Invalid newOrderRespType.")
    DUPLICATE_ORDER = (-2010, "Duplicate order sent.")
    INSUFFICIENT_BALANCE = (-2010, "Account has insufficient balance for requested action.")
    ALREADY_BUSTED = (-2010, "Trade is busted already.", 409)
    REJECTED = (-2010, "{}")
    UNKNOWN_ORDER = (-2011, "Unknown order sent.")
    NO_ORDER = (-2013, "Order does not exist.")
    NO_TRADE = (-2013, "Trade does not exist.", 404)
    BAD_API_KEY_FORMAT = (-2014, "API-key format invalid.", 401)
    BAD_API_KEY = (-2015, "Invalid API-key, IP, or permissions for action.", 401)
    ADMIN_ONLY = (-2015, "Only for this machine, with the admin key as {}.", 401)


class ApiError(Exception):
    """A request that the venue refuses; `status` is the HTTP status. `code` replaces the error's code."""

    def __init__(self, error: Error, *values: object, code: int | None = None) -> None:
        own_code, text, *status = error.value
        self.code: int = own_code if code is None else code
        self.message: str = text.format(*values)
        self.status: int = status[0] if status else 400
        super().__init__(self.message)
