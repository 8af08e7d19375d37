"""The documentation: pages that a program writes, and what every page shows held to what runs."""
