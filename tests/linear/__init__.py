"""What reads the bytes of strangers does work linear in them; work is counted, and never timed."""
