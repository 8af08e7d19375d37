"""What reacts to facts: participants, the saga log, intake."""
