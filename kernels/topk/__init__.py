"""Keep the largest weights of each row."""
