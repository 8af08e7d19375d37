"""The signal router, which turns strategies' signals into starts by the subscriptions of the accounts."""
