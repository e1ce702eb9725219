"""Floor 4: collections, measures and reports."""
