"""Show that a change of the code changes nothing that is computed: run two commits on this machine and compare.

    python scripts/same_bytes.py BASE HEAD

Each commit is checked out beside the repository and runs the short demo from nothing (one thread, float32) and a few
items of `salad eval`, in a run directory of the same path. Compared are the bytes of every data file (texts, speech,
frames, embeddings, selection, weights, figures, samples of tasks) and every training log but its times. What a commit
gave is kept in --dir, by commit, so that it runs once; a run that was stopped goes on, unless it is another commit's.
Prints a line a folder of the run, and exit code 1 where something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from salad.files import read_json, read_jsonl, sha256_file, sha256_json, write_json

KINDS = ("*.safetensors", "*.npy", "*.flac", "*.opus", "*.jsonl", "*.gz", "figures.json", "report.json", "*.txt")
TIMES = ("seconds", "perf/")  # beginnings of a log's columns that two runs of one commit do not share
CLOCKED = ("report.json",)  # whose seconds are left out
PINNED = ["threads=1", "precision=fp32"]


def ran(commit: str, recipe: str, folder: Path, settings: list[str]) -> dict[str, str]:
    """Hashes of what a commit makes, by file."""
    mark = f"{commit[:12]}-{sha256_json([recipe, settings])[:6]}"
    kept, owner = folder / f"{mark}.json", folder / "run-of.json"
    if kept.is_file():
        return read_json(kept)
    tree, run, done = folder / f"tree-{commit[:12]}", folder / "run", folder / f"run-{mark}"
    if owner.is_file() and read_json(owner) != mark:
        shutil.rmtree(run, ignore_errors=True)
    write_json(owner, mark)
    if not tree.exists():
        subprocess.run(["git", "worktree", "add", "--detach", str(tree), commit], check=True)
    environment = os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}

    def salad(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "salad.cli", *arguments], cwd=tree, env=environment, check=True)

    pinned = [part for value in (f"run_dir={run}", *PINNED, *settings) for part in ("--set", value)]
    salad("run", recipe, *pinned)
    model, out = str(run / "stage2" / "model"), str(run / "eval")
    sound = str(run / "eval-sound")  # its own: what another commit spoke proves nothing
    salad("eval", model, "--tasks", "salad_howto", "--limit", "8", "--out", out, "--speech", "--audio-cache", sound)
    found = hashes(run)
    shutil.rmtree(done, ignore_errors=True)
    run.rename(done)
    write_json(kept, found)
    subprocess.run(["git", "worktree", "remove", "--force", str(tree)], check=True)
    return found


def hashes(run: Path) -> dict[str, str]:
    files = sorted({path for kind in KINDS for path in run.rglob(kind) if path.is_file()})
    return {str(path.relative_to(run)): _hash(path) for path in files}


def _hash(path: Path) -> str:
    if path.name == "metrics.jsonl":
        rows = read_jsonl(path)
        return sha256_json([{k: v for k, v in row.items() if not k.startswith(TIMES)} for row in rows])
    if path.name in CLOCKED:
        return sha256_json(_without_times(read_json(path)))
    return sha256_file(path)


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(own) for key, own in value.items() if not key.startswith(TIMES)}
    return [_without_times(own) for own in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("head")
    parser.add_argument("--recipe", default="recipes/demo-short.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="beside the pinned settings")
    parser.add_argument("--dir", type=Path, default=Path("runs/same-bytes"))
    arguments = parser.parse_args()
    folder = arguments.dir.absolute()
    folder.mkdir(parents=True, exist_ok=True)

    def commit(name: str) -> str:
        return subprocess.run(["git", "rev-parse", name], check=True, capture_output=True, text=True).stdout.strip()

    base, head = (commit(name) for name in (arguments.base, arguments.head))
    before, after = (ran(one, arguments.recipe, folder, arguments.set) for one in (base, head))
    names = before.keys() | after.keys()
    differ = sorted(name for name in names if before.get(name) != after.get(name))
    of_all, of_these = (Counter(name.partition("/")[0] for name in some) for some in (names, differ))
    for part, number in sorted(of_all.items()):
        print(f"{part}: {number} files, {of_these[part]} differ")
    print(json.dumps({"base": base, "head": head, "files": len(before), "differ": differ}))
    sys.exit(bool(differ))


if __name__ == "__main__":
    main()
