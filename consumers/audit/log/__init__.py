"""Reading the audit log out of PostgreSQL, and the tables beside it."""
