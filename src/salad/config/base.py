"""What all sections of a recipe share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Optimizer = Annotated[
    Literal["adamw", "muon"], Field(description="muon: for the matrices inside the ears' blocks, adamw for the rest")
]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
