"""Coming back after the loss of the database or of the topics: each is made anew from the other, and nothing twice."""
