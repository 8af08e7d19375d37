"""The command line: its entry, errors as one line, progress, and `tradesaga run`."""
