"""Build and change an index."""
