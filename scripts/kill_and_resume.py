"""Kill a run at random moments, start it again, and compare its final weights with an uninterrupted run's.

    python scripts/kill_and_resume.py recipes/demo-short.yaml --kills 3

Prints one JSON line: the hashes of the weights, the data files that differ, and when the kills came.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from salad.files import sha256_file


def start(recipe: str, run_dir: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "salad.cli", "run", recipe, "--set", f"run_dir={run_dir}"]
    with open(f"{run_dir}.log", "ab") as log:
        return subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)


def final_hash(run_dir: Path) -> str:
    return sha256_file(sorted((run_dir / "stage2").glob("checkpoint-*"))[-1] / "weights.safetensors")


def data_hashes(run_dir: Path) -> dict[str, str]:
    """Every data file by its path in the run: what the same seed must give again (no logs, no times, no paths)."""
    kinds = ("*.safetensors", "*.npy", "*.flac", "web.jsonl", "speech.jsonl", "clusters.jsonl", "documents.jsonl")
    files = {path for kind in kinds for path in run_dir.rglob(kind) if "checkpoint-" not in str(path)}
    return {
        str(path.relative_to(run_dir)): hashlib.sha256(
            path.read_bytes().replace(str(run_dir).encode(), b"RUN")
        ).hexdigest()
        for path in sorted(files)
    }


def stage_of(run_dir: Path) -> str:
    """The stage that was running: the one whose stage.json was written last."""
    found = sorted(run_dir.glob("*/stage.json"), key=lambda p: p.stat().st_mtime)
    return found[-1].parent.name if found else "start"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, default=Path("runs/kill-and-resume"))
    arguments = parser.parse_args()
    arguments.dir.mkdir(parents=True, exist_ok=True)
    whole, parts = arguments.dir / "whole", arguments.dir / "parts"
    began = time.monotonic()
    if start(arguments.recipe, whole).wait() != 0:
        raise SystemExit(f"the uninterrupted run failed; see {whole}.log")
    seconds = time.monotonic() - began
    rng, kills = random.Random(arguments.seed), []
    moments = sorted(rng.uniform(0.03, 0.9) * seconds for _ in range(arguments.kills))
    for before, moment in zip([0.0, *moments[:-1]], moments, strict=True):
        process = start(arguments.recipe, parts)
        try:
            process.wait(timeout=moment - before)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)  # the main process alone: its workers must notice by themselves
            process.wait()
            kills.append({"after_s": round(moment - before, 1), "stage": stage_of(parts)})
            time.sleep(2)
    if start(arguments.recipe, parts).wait() != 0:
        raise SystemExit(f"the resumed run failed; see {parts}.log")
    hashes = [final_hash(whole), final_hash(parts)]
    data = [data_hashes(whole), data_hashes(parts)]
    differ = sorted(name for name in {**data[0], **data[1]} if data[0].get(name) != data[1].get(name))
    equal = hashes[0] == hashes[1] and not differ
    found = {"equal": equal, "sha256": hashes, "data_files": len(data[0]), "differ": differ}
    print(json.dumps({**found, "seconds": round(seconds), "kills": kills}))
    sys.exit(not equal)


if __name__ == "__main__":
    main()
