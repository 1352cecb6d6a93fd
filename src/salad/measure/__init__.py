"""What a model hears: M and F with their controls, word errors by exposure, and intervals."""
