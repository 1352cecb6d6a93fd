"""What a run will take on a machine: a calibration card, a recipe's work, and the forecast of every stage."""
