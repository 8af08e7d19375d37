"""Starting sagas from the command line: one by options, or many from a file or a pipe."""
