"""What crosses the wire: frozen messages, their envelope, their names, and the topics that carry them."""
