"""Which audio belongs to which word: forced alignment, transcripts, error rates."""
