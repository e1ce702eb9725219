"""Floor 2: sparse vectors in, ranked ordinals out."""
