"""The participants of the trade saga: risk, cash, execution, settlement.

Risk, cash and settlement keep one book and so share a database; execution needs none but its own step rows.
"""
