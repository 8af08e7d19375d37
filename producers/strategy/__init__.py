"""A moving-average strategy: a venue's bars in, signals out."""
