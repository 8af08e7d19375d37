"""The small saga under the name that the environment gives: for commands, which are processes of their own."""

import os

from tests.sagas import small_saga

named = small_saga(os.environ.get("TEST_SAGA", "small"))
