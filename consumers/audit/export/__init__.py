"""`tradesaga audit export`: a signed folder that is verified without a server."""
