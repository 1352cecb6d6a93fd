"""A recipe's stages in order, and what they share."""

from salad.pipeline.replaced import move_to_replaced
from salad.pipeline.run import ROUND, STAGES, Run, run_pipeline, run_stage

__all__ = ["ROUND", "STAGES", "Run", "move_to_replaced", "run_pipeline", "run_stage"]
