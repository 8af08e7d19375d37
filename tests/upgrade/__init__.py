"""Data of an earlier release, as text; and that the present code carries it on."""
