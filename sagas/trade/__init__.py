"""The trade's rules, pure: what an order may be, what it holds, what it may risk, what a fill moves."""
