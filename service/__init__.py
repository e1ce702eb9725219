"""Floor 3: text in, hits out, over gRPC."""
