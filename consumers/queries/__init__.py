"""The commands that show sagas: `list`, `show`, `watch`, `why` and `parked`."""
