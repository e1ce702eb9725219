"""Layer 0: what every layer shares; it imports nothing of csplade."""
