"""What crosses the wire, by example."""
