"""What several of the unit tests begin with."""

import pytest

from tests.unit.consumers.saga_log.rig import Log


@pytest.fixture
def log() -> Log:
    """Return a log in which the saga has started."""
    log = Log()
    log.start()
    return log
