"""Small models, corpora and tokenizers for tests, ours and those of who builds on this package."""
