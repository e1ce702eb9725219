"""Search a collection: encode, quantize, rank, fetch; no transport."""
