"""A recipe's stages in order, and what they share."""

from salad.pipeline.run import ROUND, STAGES, Run, run_pipeline, run_stage, set_aside

__all__ = ["ROUND", "STAGES", "Run", "run_pipeline", "run_stage", "set_aside"]
