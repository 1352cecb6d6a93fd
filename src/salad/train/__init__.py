"""Warm start and the one loop; schedule, checkpoint, teacher."""
