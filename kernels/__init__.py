"""Floor 1: tensors in, tensors out. No text, no files, no network."""
