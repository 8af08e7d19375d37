"""Installation of the pinned packages in a clone. The Makefile runs it with Python alone; it is not in the wheel."""
