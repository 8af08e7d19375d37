"""A moving-average strategy: reads a venue's bars and publishes signals."""
