"""Keep the largest weights of each row, as terms in ascending order."""
