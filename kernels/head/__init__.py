"""Pool hidden states into one weight per term."""
