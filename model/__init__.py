"""Floor 2: text in, sparse vectors out."""
