"""The schema's history, applied by `infra.database.migrate`."""
