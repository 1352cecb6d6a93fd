"""Shards are whole or absent, and the same whatever the number of workers."""

import errno
import functools
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest

from salad.engine import Made, Shard, machine, run_shards, shards, using
from salad.engine.machine import flush_subnormals, flushed
from salad.files import read_jsonl, write_jsonl
from salad.types import SaladError

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}


def square(shard: Shard, folder: Path, fail_at: int = -1) -> None:
    for item in shard.items:
        if item == fail_at:
            raise ValueError(f"item {item}")
        (folder / f"{item}.txt").write_text(str(item**2))


def contents(folders):
    return [{p.name: p.read_text() for p in sorted(folder.iterdir())} for folder in folders]


@pytest.mark.parametrize("items", [[], [7], [("a", {"id": "é"}), None, "it's"], range(12)])
def test_a_plan_names_the_items_of_every_shard(tmp_path, items):
    bounds = shards.keep_only(tmp_path, items, 5)
    lines = [line.split() for line in (tmp_path / "plan.txt").read_text().splitlines()]
    assert [int(number) for number, *_ in lines] == list(bounds.numbers) == list(range(-(-len(items) // 5)))
    hashes = [hashlib.blake2b(f"5 {item!r}".encode(), digest_size=8).digest()[::-1].hex() for item in items]
    assert [key for _, *keys in lines for key in keys] == hashes and all(len(keys) <= 5 for _, *keys in lines)


def noted(shard: Shard, folder: Path, note: str) -> None:
    """One file with the items; in `note`, the number of every shard that was made."""
    with open(note, "a") as file:
        file.write(f"{shard.index} ")
    (folder / "items.txt").write_text(" ".join(map(str, shard.items)))


@pytest.fixture
def job(tmp_path):
    """Run `noted` on items by fours; gives what the shards hold, and the numbers of those that were made now."""

    def run(items, folder=tmp_path / "out", key=str):
        note = tmp_path / "note.txt"
        note.write_text("")
        options = {"shard_items": 4, "workers": 1, "title": "t", "key": key}
        folders = run_shards(functools.partial(noted, note=str(note)), items, folder, **options)
        assert sorted(folder.glob("shard-*")) == folders
        return [(one / "items.txt").read_text() for one in folders], [int(n) for n in note.read_text().split()]

    return run


TEN = list(range(10, 20))


@pytest.mark.parametrize(
    ("items", "held", "made"),
    [
        (TEN, ["10 11 12 13", "14 15 16 17", "18 19"], []),
        ([*TEN, 20], ["10 11 12 13", "14 15 16 17", "18 19 20"], [2]),
        ([*TEN, *range(20, 26)], ["10 11 12 13", "14 15 16 17", "18 19 20 21", "22 23 24 25"], [2, 3]),
        ([9, *TEN], ["9 10 11 12 13", "14 15 16 17", "18 19"], [0]),
        ([*TEN[:2], 0, *TEN[2:]], ["10 11 0 12 13", "14 15 16 17", "18 19"], [0]),
        ([*TEN[:5], *TEN[6:]], ["10 11 12 13", "14 16 17", "18 19"], [1]),
        (TEN[4:], ["14 15 16 17", "18 19"], []),
        (TEN[:8], ["10 11 12 13", "14 15 16 17"], []),
        ([*TEN[:2], 0, 1, 2, 3, *TEN[2:]], ["10 11 0 1", "2 3 12 13", "14 15 16 17", "18 19"], [0, 1, 2, 3]),
    ],
)
def test_one_item_more_or_less_makes_one_shard_anew(job, tmp_path, items, held, made):
    """In the folder itself, and from its last result elsewhere; but where a shard would be twice as large."""
    job(TEN)
    old = tmp_path / "replaced"
    shutil.copytree(tmp_path / "out", old / "out")
    with using(spare=(tmp_path / "new", old)):
        there = job(items, tmp_path / "new" / "out")
    here = job(items)
    assert here == there == (held, made)
    assert job(items) == (held, [])


def full(shard: Shard, folder: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_names_the_last_result_that_waits_to_be_removed(tmp_path):
    last, options = tmp_path / "replaced" / "align", {"shard_items": 4, "workers": 1, "title": "t"}
    last.mkdir(parents=True)
    with using(spare=(tmp_path, last)):
        with pytest.raises(SaladError, match="then give the same command again$"):
            run_shards(full, TEN, tmp_path / "out", **options)
        (last / shards.MARK).write_bytes(bytes(3000))
        with pytest.raises(SaladError, match=r"replaced/align \(3.*\) is kept only so .*, and may be removed now"):
            run_shards(full, TEN, tmp_path / "out", **options)


def test_a_last_result_is_taken_where_a_key_says_that_it_fits(job, tmp_path):
    job(TEN)
    with using(spare=(tmp_path, tmp_path)):
        spare = tmp_path / "out"
        for folder, key in (("other", lambda item: f"other model {item}"), ("repr", None)):
            with using(spare=(tmp_path / folder, spare.parent)):
                assert job(TEN, tmp_path / folder / "out", key=key)[1] == [0, 1, 2]
    (tmp_path / "out" / "shard-00001" / "items.txt").write_text("as it was")
    with using(spare=(tmp_path / "a", tmp_path)):
        assert job(TEN, tmp_path / "a" / "out") == (["10 11 12 13", "as it was", "18 19"], [])
        job([*TEN, 20], tmp_path / "a" / "out")
    assert (tmp_path / "out" / "shard-00002" / "items.txt").read_text() == "18 19"  # what is taken is not changed


def test_a_plan_is_hashed_without_one_string_of_all_items(tmp_path):
    items = ["x" * 1000] * 3000
    tracemalloc.start()
    try:
        shards.keep_only(tmp_path, items, 5)
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


def test_any_number_of_workers_gives_the_same_files(tmp_path):
    options = {"shard_items": 3, "title": "t"}
    one = run_shards(square, range(10), tmp_path / "one", workers=1, **options)
    two = run_shards(square, range(10), tmp_path / "two", workers=2, **options)
    assert contents(one) == contents(two)
    assert [len(c) for c in contents(one)] == [3, 3, 3, 1]
    assert [f.name for f in one] == [f"shard-{i:05d}" for i in range(4)]


@pytest.mark.parametrize("workers", [1, 2])
def test_made_items_are_not_all_held(tmp_path, workers):
    held = [0, 0]  # now, and at most

    def make(number):
        item = np.array(number)
        held[0] += 1
        held[1] = max(held)
        weakref.finalize(item, lambda: held.__setitem__(0, held[0] - 1))
        return item

    assert Made(str, range(5))[1:3] == ["1", "2"]
    folders = run_shards(square, Made(make, range(40)), tmp_path, workers=workers, shard_items=2, title="t")
    assert [name for one in contents(folders) for name in one] == [
        f"{n}.txt" for pair in zip(range(0, 40, 2), range(1, 40, 2), strict=True) for n in sorted(pair, key=str)
    ]
    assert held[1] <= 2 * (workers + 2)


def test_an_error_in_making_an_item_is_raised(tmp_path):
    with pytest.raises(IndexError):
        run_shards(square, Made(lambda n: [0, 1][n], range(4)), tmp_path, workers=1, shard_items=2, title="t")


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
    parent = subprocess.Popen([sys.executable, str(script)], env=ENVIRONMENT)
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


def deadly(shard: Shard, folder: Path, poison: tuple[int, ...] = (), once: str = "") -> None:
    """Squares, in a process that a poison item kills; `once` names a file whose absence means: die this time."""
    rows = []
    for item in shard.items:
        if item["id"] in poison or (once and item["id"] == 4 and not Path(once).exists()):
            if once:
                Path(once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / f"{item['id']}.txt").write_text(str(item["id"] ** 2))
    write_jsonl(folder / "quarantine.jsonl", rows)


ROWS = [{"id": n} for n in range(10)]


@pytest.mark.parametrize("shard_items", [1, 5])
def test_killed_worker_is_retried(tmp_path, shard_items):
    options = {"shard_items": shard_items, "workers": 2, "title": "t"}
    once = functools.partial(deadly, once=str(tmp_path / "killed"))
    killed = run_shards(once, ROWS, tmp_path / "killed-once", **options)
    calm = run_shards(deadly, ROWS, tmp_path / "calm", **options)
    assert (tmp_path / "killed").exists() and contents(killed) == contents(calm)
    assert not list((tmp_path / "killed-once").glob(".shard-*"))


def test_poison_items_are_set_aside_and_all_others_kept(tmp_path):
    function = functools.partial(deadly, poison=(3, 9))
    options = {"shard_items": 5, "workers": 2, "title": "t"}
    with using(tries=2):
        folders = run_shards(function, ROWS, tmp_path / "a", quarantine=True, **options)
    assert [sorted(p.stem for p in folder.glob("*.txt")) for folder in folders] == [list("0124"), list("5678")]
    rows = [read_jsonl(folder / "quarantine.jsonl") for folder in folders]
    assert rows == [[{"id": str(n), "reason": "killed its worker 2 times"}] for n in (3, 9)]
    assert not list((tmp_path / "a").glob(".shard-*"))
    with using(tries=2), pytest.raises(SaladError, match="3 killed its worker 2 times"):
        run_shards(function, ROWS[:5], tmp_path / "b", **options)


def test_a_shard_that_is_one_poison_item(tmp_path):
    function = functools.partial(deadly, poison=(0,))
    with using(tries=1):
        [folder] = run_shards(function, ROWS[:1], tmp_path, shard_items=1, workers=2, title="t", quarantine=True)
    assert sorted(p.name for p in folder.iterdir()) == ["quarantine.jsonl"]


def crowded(shard: Shard, folder: Path) -> None:
    if len(shard.items) > 2:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_shard_that_only_kills_whole_is_an_error(tmp_path):
    with using(tries=1), pytest.raises(SaladError, match="too little memory"):
        run_shards(crowded, ROWS[:4], tmp_path, shard_items=4, workers=2, title="t", quarantine=True)


def odd_error(shard: Shard, folder: Path) -> None:
    raise OddError(1, 2)


class OddError(Exception):
    """Does not survive pickling: its message is not its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def test_an_error_that_does_not_pickle_is_told(tmp_path):
    with pytest.raises(RuntimeError, match="OddError"):
        run_shards(odd_error, ROWS, tmp_path, shard_items=5, workers=2, title="t")


held = []


def locking(shard: Shard, folder: Path) -> None:
    held.append(multiprocessing.Lock())  # a semaphore of the system, given back when the process ends by itself


def test_workers_give_back_what_they_hold(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "from pathlib import Path\nfrom salad.engine import run_shards\nfrom test_engine import locking\n"
        f"if __name__ == '__main__':\n    run_shards(locking, range(2), Path({str(tmp_path)!r}),"
        " shard_items=1, workers=2, title='t')\n"
    )
    done = subprocess.run([sys.executable, str(script)], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "leaked" not in done.stderr


def test_workers_that_cannot_start_blame_no_item(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "from pathlib import Path\nfrom salad.engine import run_shards\nfrom test_engine import square\n"
        f"run_shards(square, range(4), Path({str(tmp_path)!r}), shard_items=1, workers=2, title='t', quarantine=True)\n"
    )
    done = subprocess.run([sys.executable, str(script)], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "ended before they began" in done.stderr
    assert not list(tmp_path.glob("shard-*"))


def paced(shard: Shard, folder: Path, calls: str) -> None:
    """Squares, slowly, with a line in `calls` for every item begun."""
    for item in shard.items:
        with open(calls, "a") as file:
            file.write(f"{item} {os.getpid()}\n")
        time.sleep(0.4)
        (folder / f"{item}.txt").write_text(str(item**2))


@pytest.mark.parametrize("kind", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_killing_a_worker_and_the_driver_loses_nothing(tmp_path, kind):
    if kind == "ray":
        pytest.importorskip("ray")
    out, calls = tmp_path / "out", tmp_path / "calls"
    calls.touch()
    script = tmp_path / "main.py"
    script.write_text(
        "import functools\nfrom pathlib import Path\n"
        "from salad.engine import run_shards, using\nfrom test_engine import paced\n"
        f"if __name__ == '__main__':\n    function = functools.partial(paced, calls={str(calls)!r})\n"
        f"    with using({kind!r}):\n"
        f"        run_shards(function, range(24), Path({str(out)!r}), shard_items=2, workers=2, title='t')\n"
    )
    driver = subprocess.Popen([sys.executable, str(script)], env=ENVIRONMENT)
    _until(lambda: len(calls.read_text().splitlines()) >= 3)
    os.kill(int(calls.read_text().splitlines()[-1].split()[1]), signal.SIGKILL)  # a worker
    _until(lambda: len(list(out.glob("shard-*"))) >= 5)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    finished = {path.name: (path.stat().st_mtime_ns, contents([path])) for path in out.glob("shard-*")}
    assert 5 <= len(finished) < 12
    with using(kind):
        folders = run_shards(
            functools.partial(paced, calls=str(calls)), range(24), out, shard_items=2, workers=2, title="t"
        )
    calm = run_shards(square, range(24), tmp_path / "calm", shard_items=2, workers=1, title="t")
    assert contents(folders) == contents(calm)
    assert all(finished[f.name] == (f.stat().st_mtime_ns, contents([f])) for f in folders if f.name in finished)
    assert not list(out.glob(".shard-*"))


@pytest.mark.slow
def test_ray_gives_the_same_files_and_sets_poison_aside(tmp_path):
    pytest.importorskip("ray")
    options = {"shard_items": 3, "workers": 2, "title": "t", "quarantine": True}
    for poison in ((), (4,)):
        function = functools.partial(deadly, poison=poison)
        with using(tries=2):
            local = run_shards(function, ROWS, tmp_path / f"local{len(poison)}", **options)
        with using("ray", tries=2):
            ray = run_shards(function, ROWS, tmp_path / f"ray{len(poison)}", **options)
        assert contents(local) == contents(ray)
        assert [len(read_jsonl(folder / "quarantine.jsonl")) for folder in ray] == [0, len(poison), 0, 0]
    with using("ray", tries=2), pytest.raises(ValueError, match="item 7"):
        run_shards(functools.partial(square, fail_at=7), range(9), tmp_path / "e", **options)


def _until(condition, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def tiny_products(shard: Shard, folder: Path) -> None:
    """Products below float32's smallest normal number, by torch, by numpy, and by a matrix product."""
    import torch

    row = np.full((64, 64), 1e-20, np.float32)
    found = [float((torch.tensor([1e-30]) * 1e-10)[0]), float(np.float32(1e-30) * np.float32(1e-10)),
             float((row @ row).max())]  # fmt: skip
    (folder / "products.json").write_text(json.dumps(found))


@pytest.mark.skipif(machine._c_library() is None, reason="flushes on x86-64 with the GNU C library alone")
@pytest.mark.parametrize("fresh", [True, False])
def test_subnormals_are_flushed_in_a_worker_and_not_left_so_here(tmp_path, fresh):
    before = flush_subnormals(False)
    try:
        (out,) = run_shards(tiny_products, [0], tmp_path, shard_items=1, workers=1, title="t", fresh=fresh)
        assert json.loads((out / "products.json").read_text()) == [0.0, 0.0, 0.0]
        assert float(np.float32(1e-30) * np.float32(1e-10)) > 0
        with flushed():
            assert float(np.float32(1e-30) * np.float32(1e-10)) == 0
    finally:
        flush_subnormals(bool(before))
