"""What all sections of a recipe share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Optimizer = Annotated[
    Literal["adamw", "muon"],
    Field(
        description="`adamw` for all weights; or `muon` for the matrices inside the blocks of ears: symbols, and "
        "AdamW for the rest. With ears: single both are AdamW."
    ),
]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
