"""What holds for every saga and every history, not only for the ones somebody thought of."""
