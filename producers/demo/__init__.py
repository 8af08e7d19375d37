"""The demo: real prices, broker, database and venue; trades that fail and are taken back; the money counted anew."""
