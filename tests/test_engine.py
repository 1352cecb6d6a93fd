"""Shards are whole or absent, and the same whatever the number of workers."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from salad.engine import Shard, run_shards


def square(shard: Shard, folder: Path, fail_at: int = -1) -> None:
    for item in shard.items:
        if item == fail_at:
            raise ValueError(f"item {item}")
        (folder / f"{item}.txt").write_text(str(item**2))


def contents(folders):
    return [{p.name: p.read_text() for p in sorted(folder.iterdir())} for folder in folders]


def test_any_number_of_workers_gives_the_same_files(tmp_path):
    options = {"shard_items": 3, "title": "t"}
    one = run_shards(square, range(10), tmp_path / "one", workers=1, **options)
    two = run_shards(square, range(10), tmp_path / "two", workers=2, **options)
    assert contents(one) == contents(two)
    assert [len(c) for c in contents(one)] == [3, 3, 3, 1]
    assert [f.name for f in one] == [f"shard-{i:05d}" for i in range(4)]


def test_finished_shards_survive_a_failure_and_are_not_run_again(tmp_path):
    with pytest.raises(ValueError, match="item 7"):
        run_shards(functools.partial(square, fail_at=7), range(10), tmp_path, shard_items=3, workers=1, title="t")
    assert sorted(p.name for p in tmp_path.glob("shard-*")) == ["shard-00000", "shard-00001"]
    (tmp_path / "shard-00000" / "0.txt").write_text("not run again")
    folders = run_shards(square, range(10), tmp_path, shard_items=3, workers=1, title="t")
    assert (folders[0] / "0.txt").read_text() == "not run again" and len(folders) == 4
    assert not list(tmp_path.glob(".shard-*"))


def test_shards_of_other_items_are_not_reused(tmp_path):
    run_shards(square, range(4), tmp_path, shard_items=2, workers=1, title="t")
    folders = run_shards(square, range(10, 14), tmp_path, shard_items=2, workers=1, title="t")
    assert [list(c) for c in contents(folders)] == [["10.txt", "11.txt"], ["12.txt", "13.txt"]]
    folders = run_shards(square, range(10, 14), tmp_path, shard_items=4, workers=1, title="t")
    assert [len(c) for c in contents(folders)] == [4] and len(list(tmp_path.glob("shard-*"))) == 1


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    code = (
        "import time\nfrom salad.engine import run_shards\nfrom test_engine import slow\n"
        f"if __name__ == '__main__':\n    run_shards(slow, range(4), __import__('pathlib').Path({str(tmp_path)!r}),"
        " shard_items=1, workers=2, title='t')\n"
    )
    script = tmp_path / "main.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment)
    deadline = time.monotonic() + 60
    while len(pids := list(tmp_path.glob(".shard-*/pid"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    workers = [int(p.read_text()) for p in pids]
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(workers) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in workers)


def slow(shard: Shard, folder: Path) -> None:
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(120)
