"""Every door's one way in: a start is checked, hashed, and stored or recognised as a repeat in one transaction."""
