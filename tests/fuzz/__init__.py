"""Whatever comes in: nothing crashes, nothing hangs, and nothing is lost without a word."""
