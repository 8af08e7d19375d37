"""Recovery from the loss of the database or the topics: each is rebuilt from the other, and no effect happens twice."""
