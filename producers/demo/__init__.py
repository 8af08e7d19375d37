"""The demo: trades at real prices on a real broker, database and venue; some fail; all money is checked."""
