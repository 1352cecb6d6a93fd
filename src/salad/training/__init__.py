"""The one loop, its tasks, schedule, checkpoints and processes."""
