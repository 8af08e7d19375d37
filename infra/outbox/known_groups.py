"""Which groups work with a database now: lanes that a service has left behind in its former one are no evidence."""

from collections.abc import Callable
from typing import Final

from tradesaga.infra.settings import SAGA_LOG, Settings

GroupFilter = Callable[[str], bool]
"""Returns whether a group, by its name without the saga's, works with the database that is looked at."""
_OF_THE_LOG: Final = frozenset({"log", "intake", "signal-router"})
"""Groups that work with the saga log's database; any other group has its participant's."""


def group_filter_for(settings: Settings, service: str) -> GroupFilter:
    """Return which groups work with the database of `service`, as far as the settings of this process tell."""
    return lambda group: settings.shares_database(service, SAGA_LOG if group in _OF_THE_LOG else group)
