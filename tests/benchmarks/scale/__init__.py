"""How the product bears size: sagas in flight, sagas in the database, a restart among them, owners that come and go."""
