"""Run one function over many shards, each whole or absent."""

from salad.engine.local import Shard, run_shards

__all__ = ["Shard", "run_shards"]
