"""Folds every fact of a saga into its snapshot and the audit log, and asks for what has to be taken back."""
