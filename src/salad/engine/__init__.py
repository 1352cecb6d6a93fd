"""Run one function over many shards, each whole or absent."""

from salad.engine.run import run_shards, using
from salad.engine.shards import Joined, Made, Shard, kept_folder, pick, shards_in

__all__ = ["Joined", "Made", "Shard", "kept_folder", "pick", "run_shards", "shards_in", "using"]
