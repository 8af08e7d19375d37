"""The step path of a participant: what a message meets, what it may do, and what is published for it."""
