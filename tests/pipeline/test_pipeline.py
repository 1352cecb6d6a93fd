"""What is finished is skipped, what changed runs again and says why, what was cut short resumes."""

import errno
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from salad.config import Recipe, load_recipe
from salad.files import read_json, sha256_json, write_text
from salad.pipeline import replaced, up_to_date
from salad.pipeline import run as pipeline
from salad.pipeline.lock import one_owner, owned
from salad.training.distributed import ProcessGroup
from salad.training.schedule import of_round
from salad.types import SaladError

SETTINGS = set(Recipe.model_fields)
STAGE_FILES = sorted((Path(pipeline.__file__).parent / "stages").glob("*.py"))


@pytest.fixture
def calls(monkeypatch):
    """Stages that note their names in place of the real ones; the order and the skipping are the pipeline's own."""
    noted, real = [], up_to_date.stage_module

    def load(stage):
        def run(run):
            if stage in noted_failures:
                raise KeyboardInterrupt
            noted.append(stage)
            write_text(run.folder(stage) / "out.txt", stage)
            return {"n": 1}

        return types.SimpleNamespace(**{**vars(real(stage)), "run": run})

    noted_failures = set()
    for part in (pipeline, up_to_date):
        monkeypatch.setattr(part, "stage_module", load)
    return noted, noted_failures


def recipe(values, tmp_path, **changes):
    values = {**values, "run_dir": str(tmp_path / "run")}
    for key, value in changes.items():
        section, _, leaf = key.partition("__")
        values[section] = {**values.get(section, {}), leaf: value} if leaf else value
    return Recipe.model_validate(values)


def test_the_resolved_recipe_names_its_departures_and_loads_to_itself(calls, recipe_values, tmp_path):
    made = recipe(recipe_values, tmp_path, cluster={"k": 7})
    pipeline.run_pipeline(made)
    written = read_json(made.run_dir / "recipe.json")
    told = {row["setting"]: row for row in written["departures"]}
    assert (told["cluster.k"]["paper"], told["cluster.k"]["ours"]) == ("128", "7") and told["cluster.k"]["why"]
    assert load_recipe(made.run_dir / "recipe.json") == made


def test_runs_all_stages_in_order_then_none(calls, recipe_values, tmp_path):
    pipeline.run_pipeline(recipe(recipe_values, tmp_path))
    assert calls[0] == list(pipeline.STAGES)
    calls[0].clear()
    pipeline.run_pipeline(recipe(recipe_values, tmp_path))
    assert calls[0] == []


class Two:
    """Two processes of one launch, as threads; gather and barrier are those of `ProcessGroup`."""

    def __init__(self, monkeypatch):
        self._barrier, self._values, self._own = threading.Barrier(2, timeout=60), [None, None], threading.local()
        for name, value in (("WORLD_SIZE", "2"), ("RANK", "1")):  # threads cannot both hold the lock, nor need to
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(ProcessGroup, "join", lambda: self)

    @property
    def is_first(self):
        return self._own.rank == 0

    def barrier(self):
        self._barrier.wait()

    def gather(self, value):
        self._values[self._own.rank] = value
        self.barrier()
        values = list(self._values)
        self.barrier()
        return values

    def run(self, function):
        """What both give or raise."""

        def one(rank):
            self._own.rank = rank
            try:
                return function()
            except Exception as error:
                return error

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, (0, 1)))


def test_the_first_process_alone_looks_at_the_recordings_once_and_decides(calls, recipe_values, tmp_path, monkeypatch):
    made, asked, load = recipe(recipe_values, tmp_path), [], up_to_date.stage_module
    world = Two(monkeypatch)

    def stamp(path):
        asked.append(world.is_first)
        return "here" if world.is_first else "of another disk"

    def with_recordings(stage):
        own = {"FOUND": {up_to_date.RECORDINGS: ("out.txt", stamp, lambda path: "here")}} if stage == "corpus" else {}
        if not world.is_first:  # in a thread it would write to the same temporary file
            own["run"] = lambda run: calls[0].append(stage)
        return types.SimpleNamespace(**{**vars(load(stage)), **own})

    for part in (pipeline, up_to_date):
        monkeypatch.setattr(part, "stage_module", with_recordings)
    for looked in ([], [True]):
        asked.clear()
        assert world.run(lambda: pipeline.run_pipeline(made)) == [made.run_dir] * 2
        assert asked == looked
    assert sorted(calls[0]) == sorted([*pipeline.STAGES, "stage1", "stage2"])  # both train, and each stage ran once
    asked.clear()
    assert world.run(lambda: pipeline.run_pipeline(made, only="align")) == [made.run_dir] * 2 and asked == [True]
    other = recipe(recipe_values, tmp_path, corpus__web_documents=7)
    told = world.run(lambda: pipeline.run_pipeline(other, only="align"))
    assert [type(one) for one in told] == [SaladError] * 2 and "corpus changed" in str(told[1])


def test_rows_that_only_a_resumed_stage_reads_go_once_it_is_finished(calls, recipe_values, tmp_path):
    run = pipeline.Run(recipe(recipe_values, tmp_path))
    rows = [run.folder("align") / f"{name}/shard-00000/utterances.jsonl" for name in ("speech", "heldout")]
    rows.append(run.folder("synthesize") / "aligned/shard-00003/utterances.jsonl")
    for path in rows:
        write_text(path, "{}")
    calls[1].add("align")
    with pytest.raises(KeyboardInterrupt):
        pipeline.run_pipeline(run.recipe)
    assert all(path.exists() for path in rows)
    calls[1].clear()
    pipeline.run_pipeline(run.recipe)
    assert not any(path.exists() for path in rows)


@pytest.mark.parametrize(
    ("change", "first"),
    [({"select__gamma": 2.0}, "select"), ({"seed": 7}, "assets"), ({"engine__workers": 1}, None)],
)
def test_a_changed_section_reruns_from_there(calls, recipe_values, tmp_path, capsys, change, first):
    pipeline.run_pipeline(recipe(recipe_values, tmp_path))
    calls[0].clear()
    changed = recipe(recipe_values, tmp_path, **change)
    pipeline.run_pipeline(changed)
    names = list(pipeline.STAGES)
    assert calls[0] == (names[names.index(first) :] if first else [])
    if first:
        assert (changed.run_dir / "replaced" / first / "out.txt").read_text() == first  # nothing is lost
        assert f"{first}: runs again, because" in capsys.readouterr().err.replace("\n", " ")


def test_large_results_that_no_longer_fit_are_asked_about(calls, recipe_values, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(replaced, "KEPT_BYTES", 2000)
    made, folder = recipe(recipe_values, tmp_path), tmp_path / "run"
    pipeline.run_pipeline(made)
    (folder / "stage2" / "weights").write_bytes(bytes(3000))
    calls[0].clear()
    changed = recipe(recipe_values, tmp_path, select__gamma=2.0)
    with pytest.raises(SaladError, match=r"stage2 \([\d.]+ kB\).* --replaced keep or --replaced remove"):
        pipeline.run_pipeline(changed)
    assert not calls[0] and not (folder / "replaced").exists()  # asked before anything runs or moves
    pipeline.run_pipeline(changed, replaced="keep")
    assert (folder / "replaced" / "stage2" / "weights").exists() and not (folder / "stage2" / "weights").exists()
    (folder / "stage2" / "weights").write_bytes(bytes(4000))
    capsys.readouterr()
    third = recipe(recipe_values, tmp_path, select__gamma=3.0)
    pipeline.run_pipeline(third, replaced="remove")
    told = " ".join(capsys.readouterr().err.split())
    assert re.search(r"stage2: runs again, because select changed; its last result \([\d.]+ kB\) is removed", told)
    assert "kept in replaced/select, in place of an older one (" in told
    assert (folder / "replaced" / "stage2" / "weights").stat().st_size == 3000
    with pytest.raises(SaladError, match="--replaced: got 'yes'"):
        pipeline.run_pipeline(made, replaced="yes")


def test_what_is_to_be_removed_is_there_to_take_from_until_the_new_result_is_done(
    calls, recipe_values, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(replaced, "KEPT_BYTES", 2000)
    made, last = recipe(recipe_values, tmp_path), tmp_path / "run" / "replaced" / "align"
    pipeline.run_pipeline(made)
    (made.run_dir / "align" / "frames").write_bytes(bytes(3000))
    calls[1].add("align")
    changed = recipe(recipe_values, tmp_path, align__min_score=0.11)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run_pipeline(changed, replaced="remove")
    assert (last / "frames").stat().st_size == 3000  # run_shards takes from it
    calls[1].clear()
    pipeline.run_pipeline(changed, only="align")  # remembers what was said
    assert not last.exists() and (made.run_dir / "align" / "out.txt").exists()
    told = " ".join(capsys.readouterr().err.split())
    assert "is removed once the new one is done, which takes from it what still fits" in told
    assert "replaced/align: removed, 3" in told


def test_a_result_that_fits_again_is_taken_back(calls, recipe_values, tmp_path, capsys):
    made, other = recipe(recipe_values, tmp_path), recipe(recipe_values, tmp_path, select__gamma=2.0)
    folder = tmp_path / "run"
    pipeline.run_pipeline(made)
    write_text(folder / "select" / "out.txt", "of hours")
    calls[1].add("synthesize")
    with pytest.raises(KeyboardInterrupt):
        pipeline.run_pipeline(other)  # a typo, stopped after minutes
    calls[1].clear()
    calls[0].clear()
    pipeline.run_pipeline(made)
    assert calls[0] == [] and (folder / "select" / "out.txt").read_text() == "of hours"
    assert read_json(folder / "replaced" / "select" / "stage.json")["status"] == "done"  # of the other recipe
    assert read_json(folder / "replaced" / "synthesize" / "stage.json")["status"] == "running"
    assert "select: fits again and is taken back from replaced/" in " ".join(capsys.readouterr().err.split())
    assert not list((folder / "replaced").glob(".*"))


def test_a_recipe_with_other_lanes_does_not_begin_a_training_again(calls, recipe_values, tmp_path):
    def made(lanes, **more):
        return recipe(recipe_values, tmp_path, sequence={"stream": True, "lanes": lanes, "buffer_shards": 2}, **more)

    def trained(lanes):
        path = tmp_path / "run" / "stage1" / "checkpoint-000002" / "state.json"
        pipeline.write_json(path, {"stream": {"lanes": {str(lane): {} for lane in range(lanes)}}})

    calls[1].add("stage1")
    with pytest.raises(KeyboardInterrupt):
        pipeline.run_pipeline(made(8))
    trained(8)
    calls[1].clear()
    pipeline.run_pipeline(made(32))
    assert not (tmp_path / "run" / "replaced").exists() and (tmp_path / "run" / "stage1" / "checkpoint-000002").exists()
    calls[0].clear()
    changed = made(32, stage1__steps=77)
    pipeline.run_pipeline(changed)
    assert calls[0][0] == "stage1" and not (tmp_path / "run" / "stage1" / "checkpoint-000002").exists()
    trained(32)
    calls[0].clear()
    pipeline.run_pipeline(changed)
    assert calls[0] == []


def test_below_a_stage_that_ran_anew_nothing_is_taken_back(calls, recipe_values, tmp_path):
    made, other = recipe(recipe_values, tmp_path), recipe(recipe_values, tmp_path, select__gamma=2.0)
    pipeline.run_pipeline(made)
    pipeline.run_pipeline(other)
    shutil.rmtree(made.run_dir / "cluster")
    calls[0].clear()
    pipeline.run_pipeline(made)
    assert {"cluster", "select", "stage2"} <= set(calls[0])  # their results came of other clusters


def test_what_was_cut_short_takes_no_finished_results_place(tmp_path):
    target = tmp_path / "replaced" / "stage1"
    for folder, status in ((target, "done"), (tmp_path / "stage1", "running")):
        pipeline.write_json(folder / "stage.json", {"status": status})
    said = replaced.move_to_replaced(tmp_path / "stage1", target)
    assert "was not finished and is removed; replaced/stage1 holds a finished one" in said
    assert read_json(target / "stage.json")["status"] == "done" and not (tmp_path / "stage1").exists()


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Write a finished result of 3 kB, which is large here; its folder."""
    monkeypatch.setattr(replaced, "KEPT_BYTES", 2000)

    def write(name, made_as):
        pipeline.write_json(tmp_path / name / "stage.json", {"status": "done"})
        (tmp_path / name / made_as).write_bytes(bytes(3000))
        return tmp_path / name

    return write


def test_what_is_to_be_removed_takes_no_kept_results_place(results):
    target, folder = results("replaced/align", "kept"), results("align", "current")
    assert "is removed" in replaced.move_to_replaced(folder, target, "remove", reuses=True)
    assert (target / "kept").exists() and not (target / replaced.MARK).exists() and not folder.exists()


def test_a_kill_while_a_result_moves_leaves_none_for_good(results, monkeypatch):
    target, folder = results("replaced/align", "old"), results("align", "current")
    (target / replaced.MARK).touch()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "touch", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        replaced.move_to_replaced(folder, target, "remove", reuses=True)
    assert folder.exists() and not target.exists()
    replaced.move_to_replaced(folder, target, "remove", reuses=True)
    assert (target / replaced.MARK).exists()
    folder = results("align", "next")
    (folder / replaced.MARK).touch()  # killed between the mark and the move; now it is to be kept
    replaced.move_to_replaced(folder, target, "keep", reuses=True)
    assert (target / "next").exists() and not (target / replaced.MARK).exists()


def test_a_kill_just_before_the_last_result_goes_leaves_it_to_the_next_run(calls, recipe_values, tmp_path, monkeypatch):
    monkeypatch.setattr(replaced, "KEPT_BYTES", 2000)
    made, changed = recipe(recipe_values, tmp_path), recipe(recipe_values, tmp_path, align__min_score=0.11)
    pipeline.run_pipeline(made)
    (made.run_dir / "align" / "frames").write_bytes(bytes(3000))
    with pytest.raises(SaladError, match=r"of align the old result goes only once the new one is done"):
        pipeline.run_pipeline(changed)
    last = made.run_dir / "replaced" / "align"
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "remove_marked", lambda target: None)
        pipeline.run_pipeline(changed, replaced="remove")
    assert (last / "frames").exists()
    pipeline.run_pipeline(changed)
    assert not last.exists()


def test_an_interrupted_stage_resumes_in_its_folder(calls, recipe_values, tmp_path):
    calls[1].add("cluster")
    r = recipe(recipe_values, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run_pipeline(r)
    (r.run_dir / "cluster" / "half.txt").write_text("kept")
    assert read_json(r.run_dir / "cluster" / "stage.json")["status"] == "running"
    calls[1].clear()
    calls[0].clear()
    pipeline.run_pipeline(r)
    stages = list(pipeline.STAGES)
    assert calls[0] == stages[stages.index("cluster") :]
    assert (r.run_dir / "cluster" / "half.txt").exists()


def test_an_interrupted_stage_of_another_recipe_starts_anew(calls, recipe_values, tmp_path):
    calls[1].add("cluster")
    with pytest.raises(KeyboardInterrupt):
        pipeline.run_pipeline(recipe(recipe_values, tmp_path))
    half = tmp_path / "run" / "cluster" / "half.txt"
    half.write_text("of the old recipe")
    calls[1].clear()
    pipeline.run_pipeline(recipe(recipe_values, tmp_path, cluster__k=3))
    assert not half.exists()


def test_only_one_stage(calls, recipe_values, tmp_path):
    r = recipe(recipe_values, tmp_path)
    pipeline.run_pipeline(r, only="assets")
    assert calls[0] == ["assets"]
    with pytest.raises(SaladError, match="expected one of assets"):
        pipeline.run_pipeline(r, only="nonsense")


def test_a_stage_alone_needs_those_above_it_finished_and_unchanged(calls, recipe_values, tmp_path):
    made = recipe(recipe_values, tmp_path)
    with pytest.raises(SaladError, match=r"stage stage1: corpus is not finished in .*run `salad stage corpus RECIPE`"):
        pipeline.run_pipeline(made, only="stage1")
    assert not (made.run_dir / "recipe.json").exists()
    for stage in ("corpus", "align", "stage1"):  # without assets, and without what the recipe leaves out
        pipeline.run_pipeline(made, only=stage)
    before = (made.run_dir / "recipe.json").read_text()
    calls[0].clear()
    for changed in ({"corpus__web_documents": 7}, {"assets": {"encoder": "log-mel"}}):
        with pytest.raises(SaladError, match=r"stage stage1: corpus in .* no longer fits the recipe \(.* changed\)"):
            pipeline.run_pipeline(recipe(recipe_values, tmp_path, **changed), only="stage1")
    assert calls[0] == [] and (made.run_dir / "recipe.json").read_text() == before
    symbols = {"model__ears": "symbols", "model__rate": "text", "warm_start__enabled": True}
    with pytest.raises(SaladError, match="stage stage1: warm_start is not finished"):
        pipeline.run_pipeline(recipe(recipe_values, tmp_path, **symbols), only="stage1")


def test_a_stage_below_a_changed_unfinished_one_is_refused(recipe_values, tmp_path):
    with pytest.raises(SaladError, match="stage corpus: not finished"):
        pipeline.Run(recipe(recipe_values, tmp_path)).done("corpus")


def test_a_later_round_has_folders_of_its_own_and_knows_those_before(recipe_values, tmp_path):
    run = pipeline.Run(recipe(recipe_values, tmp_path))
    third = pipeline.Run(run.recipe, round=3)
    assert run.folder("probe") == run.dir / "probe" and third.folder("probe") == run.dir / "rounds" / "03" / "probe"
    assert third.folder("align") == run.folder("align")
    assert [one.round for one in third.rounds] == [1, 2, 3] and run.latest.round == 1
    pipeline.write_json(pipeline.Run(run.recipe, round=2).folder("stage2") / "stage.json", {"status": "done"})
    assert run.latest.round == 2


def test_rounds_share_the_steps_and_only_the_last_decays(recipe_values, tmp_path):
    made = recipe(recipe_values, tmp_path, rounds={"number": 3}, stage2__steps=11, stage2__decay_share=1.0)
    rounds = [of_round(made.stage2, n, 3) for n in (1, 2, 3)]
    assert sum(one.steps for one in rounds) == 11 and [one.decay_share for one in rounds] == [0.0, 0.0, 1.0]
    with pytest.raises(ValueError, match=r"rounds\.number"):
        recipe(recipe_values, tmp_path, rounds={"number": 30}, stage2__steps=11)


# One run, one owner


def in_a_thread(function):
    """A lock is held by an open file: another thread with its own is as foreign as another process."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_a_second_run_in_the_same_directory_is_refused_with_the_firsts_name(calls, recipe_values, tmp_path):
    made = recipe(recipe_values, tmp_path)
    with owned(made.run_dir):
        with pytest.raises(SaladError, match=r"run_dir: .*/run is in use by process \d+ on ") as error:
            in_a_thread(lambda: pipeline.run_pipeline(made))
        assert f"process {os.getpid()} on {platform.node()} since " in str(error.value)
        assert "give --wait" in str(error.value) and not calls[0]
    in_a_thread(lambda: pipeline.run_pipeline(made))
    assert calls[0] == list(pipeline.STAGES)
    assert not (made.run_dir / ".owner.json").exists()


def test_a_second_run_waits_its_turn(calls, recipe_values, tmp_path, capsys):
    made = recipe(recipe_values, tmp_path)
    with ThreadPoolExecutor(1) as pool:
        with owned(made.run_dir):
            second = pool.submit(lambda: pipeline.run_pipeline(made, wait=True))
            time.sleep(0.2)
            assert not second.done() and not calls[0]
        second.result(timeout=20)
    assert calls[0] == list(pipeline.STAGES)
    assert "waiting" in capsys.readouterr().err


def test_a_run_whose_process_was_killed_is_free(recipe_values, tmp_path):
    code = (
        "import fcntl, os, sys, time; f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('mine', flush=True); time.sleep(60)"
    )
    folder = recipe(recipe_values, tmp_path).run_dir
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", code, folder / ".owner.lock"], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"mine\n"
        with pytest.raises(SaladError, match="is in use by another process"), owned(folder):
            pass
        other.kill()
        other.wait()
    with owned(folder):
        assert read_json(folder / ".owner.json")["pid"] == os.getpid()


def test_the_processes_of_one_launch_are_one_owner(monkeypatch, recipe_values, tmp_path):
    made = recipe(recipe_values, tmp_path)
    monkeypatch.setenv("RANK", "1")  # the first one holds it for all
    held = one_owner(lambda recipe: recipe.run_dir)
    with owned(made.run_dir):
        assert in_a_thread(lambda: held(made)) == made.run_dir


def test_a_run_directory_that_is_a_file_is_told(calls, recipe_values, tmp_path):
    made = recipe(recipe_values, tmp_path)
    made.run_dir.write_text("")
    with pytest.raises(SaladError, match="run_dir: .*/run is no folder that can be written to .*; name another one"):
        pipeline.run_pipeline(made)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_told_and_used(monkeypatch, tmp_path, capsys, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with owned(tmp_path / "run"):
        assert "has no locks; start no second run" in " ".join(capsys.readouterr().err.split())


def test_a_lock_file_that_cannot_be_opened_is_told(tmp_path):
    (tmp_path / ".owner.lock").mkdir()
    with (
        pytest.raises(SaladError, match=r"run_dir: .* cannot be locked \(.*Is a directory.*; let .owner.lock in it be"),
        owned(tmp_path),
    ):
        pass


def test_an_error_frees_the_directory(calls, recipe_values, tmp_path):
    calls[1].add("cluster")
    made = recipe(recipe_values, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run_pipeline(made)
    calls[1].clear()
    in_a_thread(lambda: pipeline.run_pipeline(made))
    assert calls[0][-1] == "report"


# What stage.json of a finished run names; other names or other values make every user's run begin anew.
NAMED = {
    "assets": ("assets", "seed", "precision", "threads"),
    "corpus": ("corpus",),
    "align": ("align", "sequence"),
    "warm_start": ("model", "warm_start"),
    "spell": ("spell",),
    "stage1": ("stage1",),
    "cluster": ("cluster",),
    "probe": ("probe",),
    "select": ("select", "rounds"),
    "synthesize": ("synthesize",),
    "stage2": ("stage2", "rounds"),
    "rounds": ("rounds",),
    "evaluate": ("evaluate",),
    "report": (),
}
MEASURED_ON = "what is measured on"
FURTHER = {  # beside the sections, by recipe
    "demo": {"corpus": {"prepared corpus", MEASURED_ON}},
    "demo-short": {"corpus": {"prepared corpus", MEASURED_ON}},
    "salad-3b": {
        "corpus": {"length of documents", "your data", MEASURED_ON},
        "align": {"whole recordings"},
        "stage1": {"stream"},
    },
}


@pytest.mark.parametrize("name", sorted(FURTHER))
def test_a_finished_run_stays_finished(name, tmp_path):
    path = Path(__file__).parents[2] / "recipes" / f"{name}.yaml"
    pinned = [
        "llm=smollm2-135m-instruct",
        "encoder=whisper-tiny.en",
        "asr=whisper-tiny.en",
        "embedder=all-minilm-l6-v2",
    ]
    made = load_recipe(path, [f"run_dir={tmp_path}", *(f"assets.{setting}" for setting in pinned)])
    values = made.model_dump(mode="json")
    loading = [values["sequence"].pop(key) for key in ("features", "stream", "lanes", "buffer_shards", "encode")]
    for stage, sections in NAMED.items():
        found = up_to_date.stage_inputs(stage, made)
        assert {key: found.pop(key) for key in sections} == {key: sha256_json(values[key])[:16] for key in sections}
        more = {key.split()[0] if key.startswith("asset ") else key for key in found}
        assert more == ({"asset"} if stage == "assets" else FURTHER[name].get(stage, set()))
        if "stream" in found:
            assert found["stream"] == sha256_json(loading[2:4])[:16]


def test_every_stage_declares_what_it_is_made_from():
    files = {stage: up_to_date.stage_module(stage) for stage in pipeline.STAGES}
    found = [stage for stage, file in files.items() for name in file.SECTIONS if name not in SETTINGS]
    assert not found and {path.stem for path in STAGE_FILES} == {*pipeline.STAGES, "__init__"}
    assert [stage for stage, file in files.items() if getattr(file, "TOGETHER", False)] == [
        "stage1",
        "stage2",
    ]


def test_the_command_and_the_pipeline_load_no_torch():
    """`salad --help` answers at once: the stages' files, with all that they import, are asked for late."""
    code = "import sys, salad.cli, salad.pipeline.run; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"
