"""The schema's history, applied by `tradesaga.infra.database.migrate`."""
