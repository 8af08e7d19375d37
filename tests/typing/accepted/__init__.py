"""Right programs: pyright strict takes them as part of the project."""
