"""Venues: the adapters behind `tradesaga.sagas.venue.VenuePort`, and the paper venue that they can trade on."""
