"""The messages of the wire: their bases, those of the trade, those of every saga's life, and signals."""
