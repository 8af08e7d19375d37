"""Folds every fact of a saga into its snapshot and the audit log, and requests the compensations that follow."""
