"""Starting sagas from the command line: one from options, or many from a file or a pipe."""
