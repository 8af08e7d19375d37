"""Topics folded again: compared with the database, at a moment, in ranges, and behind the head all the time."""
