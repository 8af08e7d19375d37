"""What the unit tests begin with."""

from tests import hypothesis_profile

hypothesis_profile.load()
