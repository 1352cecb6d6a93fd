"""Ship the ears of a finished run as an asset: `python scripts/ship_ears.py runs/demo-long salad-smollm2-135m-ears`.

Writes the adapter in float16, its configuration, the recipe, the model card and a log of the run to the package, with
their pins (assets/data/NAME.tsv). The LLM is not in it: `salad.assets.model_folder` joins the two.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from salad.assets.ears import ADAPTER
from salad.config import load_recipe
from salad.files import read_json, sha256_file, write_json, write_text
from salad.pipeline.run import STAGES

SHIPPED = Path(__file__).parents[1] / "src" / "salad" / "assets" / "data"
LARGEST_BYTES = 30_000_000


def ship(run: Path, name: str) -> None:
    model, folder = run / "stage2" / "model", SHIPPED / name
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(model / "model.safetensors")
    own = {key: _half(value) for key, value in weights.items() if not key.startswith("llm.")}
    save_file(own, folder / ADAPTER, {"format": "pt"})
    write_json(folder / "config.json", _without_paths(read_json(model / "config.json")))
    write_json(folder / "processor_config.json", read_json(model / "processor_config.json"))
    write_json(folder / "recipe.json", read_json(run / "recipe.json"))
    write_json(folder / "log.json", _log(run))
    write_text(folder / "README.md", (model / "README.md").read_text(encoding="utf-8"))
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > LARGEST_BYTES:
        raise SystemExit(f"ship_ears: {folder} takes {size} bytes, expected at most {LARGEST_BYTES}; make ears smaller")
    pins = [f"{path.name}\t{path.stat().st_size}\t{sha256_file(path)}\n" for path in sorted(folder.iterdir())]
    write_text(SHIPPED / f"{name}.tsv", "".join(pins))


def _half(value: torch.Tensor) -> torch.Tensor:
    return value.half().contiguous() if value.is_floating_point() else value.contiguous()


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(own) for key, own in value.items() if not key.endswith("_name_or_path")}
    return value


def _log(run: Path) -> dict[str, Any]:
    """Seconds and summary of every stage, and all figures of the evaluation but the samples."""
    notes = {stage: run / stage / "stage.json" for stage in STAGES}
    stages = {stage: read_json(path) for stage, path in notes.items() if path.is_file()}
    figures = read_json(run / "evaluate" / "figures.json")
    figures["hearing"] = {key: value for key, value in (figures["hearing"] or {}).items() if key != "spans"}
    return {
        "stages": {stage: {key: note.get(key) for key in ("seconds", "summary")} for stage, note in stages.items()},
        "versions": stages["evaluate"]["versions"],
        "figures": figures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's folder, or its recipe")
    parser.add_argument("name", help="of the asset")
    arguments = parser.parse_args()
    run = load_recipe(arguments.run).run_dir if arguments.run.is_file() else arguments.run
    ship(run, arguments.name)


if __name__ == "__main__":
    main()
