"""One short file a stage: read the run directory, call the rooms above, write the run directory."""
