"""Venues: the adapters behind `sagas.venue.VenuePort`, and the paper venue that they can trade on."""
