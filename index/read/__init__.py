"""Open and search an index."""
