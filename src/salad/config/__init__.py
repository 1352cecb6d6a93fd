"""A recipe: one frozen, validated model per section, and how a YAML file becomes one."""

from __future__ import annotations

from salad.config.alignment import Align, Sequence
from salad.config.data import Assets, Corpus, Engine, Speech, Text, Variation, Voices
from salad.config.recipe import Cluster, Evaluate, Probe, Recipe, Rounds, Select, Synthesize, load_recipe
from salad.config.training import Model, Spell, Stage, WarmStart

__all__ = [
    "Align",
    "Assets",
    "Cluster",
    "Corpus",
    "Engine",
    "Evaluate",
    "Model",
    "Probe",
    "Recipe",
    "Rounds",
    "Select",
    "Sequence",
    "Speech",
    "Spell",
    "Stage",
    "Synthesize",
    "Text",
    "Variation",
    "Voices",
    "WarmStart",
    "load_recipe",
]
