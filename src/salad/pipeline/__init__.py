"""A recipe's stages in order, and what they share."""
