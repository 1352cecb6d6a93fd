"""Speech and text in: readers, ingest, inspection, data card, prepared and generated text."""
