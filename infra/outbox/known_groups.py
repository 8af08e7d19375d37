"""Which groups use a database now; lanes left in the former database of a service are no evidence."""

from collections.abc import Callable
from typing import Final

from tradesaga.infra.settings import SAGA_LOG, Settings

GroupFilter = Callable[[str], bool]
"""Returns whether a group, named without its saga's prefix, uses the database that is checked."""
_OF_THE_LOG: Final = frozenset({"log", "intake", "signal-router"})
"""Groups that use the saga log's database; any other group uses its participant's."""


def group_filter_for(settings: Settings, service: str) -> GroupFilter:
    """Return a filter for the groups that use the database of `service`, as far as these settings show it."""
    return lambda group: settings.shares_database(service, SAGA_LOG if group in _OF_THE_LOG else group)
