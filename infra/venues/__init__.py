"""Venues: the adapters behind `tradesaga.sagas.trade.venue.VenuePort`, and the paper venue that they can trade on."""
