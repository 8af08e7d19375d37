"""The participants of the trade saga: risk, cash, execution, settlement.

Risk, cash and settlement share the ledger and so a database; execution only needs its own step rows.
"""
