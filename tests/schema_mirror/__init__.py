"""The database schema as SQLAlchemy tables; a test compares them with the migrated database."""
