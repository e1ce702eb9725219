"""Turn arrays into arrays on any device: no text, no files, no network."""
