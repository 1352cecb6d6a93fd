"""Every worker has its device, and is told it before it starts; what asks for a GPU that is not here is refused."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from salad.config.data import Engine
from salad.engine import Shard, run_shards, using
from salad.engine import devices as devices_of
from salad.engine.devices import devices_line, environment, gpu_names, plan_workers, worker_device
from salad.files import read_json
from salad.types import SaladError

MINE = ("SALAD_DEVICE", "CUDA_VISIBLE_DEVICES")


def note(shard: Shard, folder: Path) -> None:
    """What its worker was told. An item with a `mark` kills its first worker; one with `meet` waits for another."""
    [item] = shard.items
    mark = Path(item["mark"]) if "mark" in item else None
    if mark and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if "meet" in item:
        place = Path(item["meet"])
        (place / str(os.getpid())).touch()
        until_s = time.monotonic() + 120
        while len(list(place.iterdir())) < 2 and time.monotonic() < until_s:
            time.sleep(0.02)
    told = [os.environ.get(name) for name in MINE]
    (folder / "told.json").write_text(json.dumps({"told": told, "device": worker_device(), "process": os.getpid()}))


def two_gpus(monkeypatch, names=("0", "1")):
    for module in ("run", "ray"):
        monkeypatch.setattr(f"salad.engine.{module}.gpus_here", lambda library: names)


def notes(folders):
    return [read_json(folder / "told.json") for folder in folders]


def test_the_plan_of_a_machine_with_two_gpus():
    two = ("0", "1")
    assert plan_workers("auto", "torch", 16, two) == two  # one worker a GPU, however many cores there are
    assert plan_workers("cuda", "ctranslate2", 1, two) == two
    assert plan_workers("cpu", "torch", 3, two) == (None, None, None)
    assert plan_workers("auto", None, 3, two) == (None, None, None)  # a job that knows no GPU
    assert plan_workers("cuda", None, 1, ()) == (None,)
    assert plan_workers("auto", "torch", 2, ()) == (None, None)
    assert environment("1") == {"SALAD_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": "1"}
    assert environment(None) == {"SALAD_DEVICE": "cpu"}


@pytest.mark.parametrize(("library", "needs"), [("torch", "auto"), ("ctranslate2", "libcublas")])
def test_cuda_without_a_gpu_is_refused(library, needs):
    with pytest.raises(SaladError, match=f"engine.device: got cuda, but {library} finds no GPU here.*{needs}"):
        plan_workers("cuda", library, 2, ())


def test_a_run_that_asks_for_cuda_ends_before_it_begins(monkeypatch):
    monkeypatch.setattr("salad.engine.run.gpus_here", lambda library: ())
    with pytest.raises(SaladError, match="set engine.device: auto"), using(device="cuda"):
        pytest.fail("entered")
    with pytest.raises(ValueError, match="device"):
        Engine(device="gpu")


def test_only_the_gpus_that_this_process_sees():
    assert gpu_names(2, None) == ("0", "1") == gpu_names(2, "")
    assert gpu_names(2, "4, 6") == ("4", "6")
    assert gpu_names(1, "GPU-8a3,GPU-91c") == ("GPU-8a3",)


def test_what_a_job_runs_on_is_said():
    assert devices_line("encode", ("0", "1")) == "encode: on 2 GPUs (0, 1), one worker each"
    assert devices_line("encode", ("3",)) == "encode: on 1 GPU (3), one worker each"
    assert devices_line("encode", (None, None)) == "encode: on the CPU, 2 workers"


def test_each_worker_is_started_with_its_own_gpu(tmp_path, monkeypatch, capsys):
    """Two fake GPUs, six shards; one worker is killed, and its GPU goes to the one that takes its place."""
    two_gpus(monkeypatch, ("4", "6"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    items = [{"n": n} for n in range(6)]
    (tmp_path / "meet").mkdir()
    items[0]["meet"] = items[1]["meet"] = str(tmp_path / "meet")
    items[1]["mark"] = str(tmp_path / "killed")
    found = notes(run_shards(note, items, tmp_path / "out", shard_items=1, workers=1, title="t", library="torch"))
    gpus = {row["process"]: row["told"][1] for row in found}
    assert {row["device"] for row in found} == {"cuda"} and {row["told"][0] for row in found} == {"cuda"}
    assert os.getpid() not in gpus and {*gpus.values()} <= {"4", "6"} and (tmp_path / "killed").exists()
    assert sorted(gpus.values()) == ["4", "6"]  # of the two that lived: none has the other's
    assert [os.environ.get(name) for name in MINE] == [None, "4,6"]
    assert "t: on 2 GPUs (4, 6), one worker each" in capsys.readouterr().err


def test_on_the_cpu_one_worker_is_this_process(tmp_path, monkeypatch, capsys):
    two_gpus(monkeypatch)
    options = {"shard_items": 1, "workers": 1, "title": "t"}
    with using(device="cpu"):
        [row] = notes(run_shards(note, [{}], tmp_path / "cpu", library="torch", **options))
    [other] = notes(run_shards(note, [{}], tmp_path / "no", **options))  # the job knows no GPU
    assert row["process"] == other["process"] == os.getpid() and row["device"] == other["device"] == "cpu"
    assert capsys.readouterr().err.count("t: on the CPU, 1 worker") == 1
    assert worker_device() == "cpu" and "SALAD_DEVICE" not in os.environ


def test_ctranslate2_helps_on_the_cpu_where_it_cannot_use_the_gpu(monkeypatch):
    monkeypatch.setenv("SALAD_DEVICE", "cuda")
    monkeypatch.setattr(devices_of, "gpus_here", lambda library: ())
    assert worker_device("ctranslate2") == "cpu" and worker_device() == "cuda"
    monkeypatch.setattr(devices_of, "gpus_here", lambda library: ("0",))
    assert worker_device("ctranslate2") == "cuda"


@pytest.mark.slow
def test_ray_gives_each_task_a_gpu(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    two_gpus(monkeypatch)
    with using("ray"):
        items = [{"n": n} for n in range(4)]
        found = notes(run_shards(note, items, tmp_path, shard_items=1, workers=1, title="t", library="torch"))
    assert {row["device"] for row in found} == {"cuda"} and {row["told"][1] for row in found} <= {"0", "1"}


@pytest.mark.gpu
def test_a_worker_computes_on_its_gpu(tmp_path):
    [row] = notes(run_shards(note, [{}], tmp_path, shard_items=1, workers=1, title="t", library="torch"))
    assert row["device"] == "cuda" and row["process"] != os.getpid()
