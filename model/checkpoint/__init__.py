"""Read model directories: layout, manifest, presets, weights."""
