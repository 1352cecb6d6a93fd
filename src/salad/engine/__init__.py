"""Run one function over many shards, each whole or absent."""

from salad.engine.run import run_shards, using
from salad.engine.shards import Shard

__all__ = ["Shard", "run_shards", "using"]
