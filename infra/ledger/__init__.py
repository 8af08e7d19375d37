"""The book: accounts, instruments, orders, exposure, and the double-entry ledger that holds the money."""
