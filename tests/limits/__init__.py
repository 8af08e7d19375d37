"""What the system takes on at once, and that it takes on no more."""
