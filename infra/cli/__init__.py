"""The command line: entry point, shared options, output, errors, and `tradesaga run`."""
