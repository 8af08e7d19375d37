"""The schema's history, applied by `tradesaga.infra.postgres.migrate`."""
