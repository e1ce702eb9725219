"""Files of an index: segments, manifests, document stores."""
