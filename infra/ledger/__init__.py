"""The ledger database: accounts, instruments, orders, exposure, and the double-entry ledger."""
