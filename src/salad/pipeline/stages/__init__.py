"""One file a stage: read the run directory, call the rooms, write the run directory."""
