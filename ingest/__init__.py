"""Read corpora, vectors and runs; build indexes and encode files."""
