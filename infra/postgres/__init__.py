"""PostgreSQL: connections, errors, the schema and its migrations, partitions, roles, the installation's id."""
