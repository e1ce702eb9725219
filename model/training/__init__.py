"""Training of the encoder: adaptation, contrastive learning, their data and losses."""
