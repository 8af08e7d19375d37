"""The gate that keeps messages readable: recorded contracts, golden records, and the rules of what may change."""
