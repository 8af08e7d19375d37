"""Installation of the pinned packages from a clone; used by the Makefile with nothing but Python, and not shipped."""
