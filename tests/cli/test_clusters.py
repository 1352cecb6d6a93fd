"""Scripts for clusters: their syntax, and what they do with stand-ins of SLURM's commands."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
EVERY = sorted([*SCRIPTS.rglob("*.sh"), *SCRIPTS.rglob("*.sbatch")])
STAND_INS = {
    "scontrol": 'echo "scontrol $*" >> "$LOG"; if [[ $1 == show ]]; then echo node-1; fi',
    "scancel": 'echo "scancel $*" >> "$LOG"; kill -TERM "$(cat "$PIDS")"',
    "srun": """echo "cpus=${SRUN_CPUS_PER_TASK:-}" >> "$LOG"
export SLURM_PROCID=1 SLURM_LOCALID=1 SLURM_NTASKS=2; shift; exec "$@\"""",
    "salad": """echo "salad $* rank=${RANK:-} of ${WORLD_SIZE:-}" >> "$LOG"
if [[ ${ENDS:-} ]]; then exit "$ENDS"; fi
trap 'echo checkpoint >> "$LOG"; exit 75' TERM
echo $$ > "$PIDS"
for _ in {1..200}; do sleep 0.05; done""",
}


@pytest.fixture
def cluster(tmp_path):
    """The environment of a job whose commands are stand-ins that write down what they are asked."""
    for name, body in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    own = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
        "PIDS": str(tmp_path / "p"),
    }
    return {**os.environ, **own, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node-[1-2]", "SALAD": "salad"}


def pid_of(path):
    """Of the run, once it says so."""
    deadline = time.monotonic() + 10
    while not (path.exists() and path.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return int(path.read_text())


@pytest.mark.parametrize("script", EVERY, ids=lambda path: path.name)
def test_syntax(script):
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""


def test_there_are_scripts():
    assert {"train.sbatch", "data.sbatch", "submit.sh"} <= {path.name for path in EVERY}


@pytest.mark.parametrize("name", ["train", "data"])
@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_reaches_the_run_and_the_job_is_requeued(cluster, tmp_path, name, sent):
    script = SCRIPTS / "slurm" / f"{name}.sbatch"
    job = subprocess.Popen(["bash", script, "my.yaml", "stage1", "--", "--set", "a=b"], env=cluster)
    pid_of(tmp_path / "p")
    job.send_signal(sent)
    assert job.wait(10) == 0
    log = (tmp_path / "log").read_text()
    assert "salad stage stage1 my.yaml --set a=b" in log and "checkpoint" in log and "scontrol requeue 7" in log
    assert ("rank=1 of 2" in log) == ("scancel --signal=TERM 7.0" in log) == (name == "train")


def test_a_preemption_that_reaches_the_step_alone_requeues_the_job(cluster, tmp_path):
    own = {**cluster, "SLURM_CPUS_PER_TASK": "6"}
    job = subprocess.Popen(["bash", SCRIPTS / "slurm" / "train.sbatch", "my.yaml", "stage1", "stage2"], env=own)
    os.kill(pid_of(tmp_path / "p"), signal.SIGTERM)
    assert job.wait(10) == 0
    log = (tmp_path / "log").read_text()
    assert "checkpoint" in log and "scontrol requeue 7" in log and "scancel" not in log and "stage2" not in log
    assert "cpus=6" in log  # srun takes it from nowhere else


@pytest.mark.parametrize("name", ["train", "data"])
@pytest.mark.parametrize("ends", ["0", "3"])
def test_a_run_that_ends_is_not_requeued_and_its_code_is_the_job_s(cluster, tmp_path, name, ends):
    command = ["bash", SCRIPTS / "slurm" / f"{name}.sbatch", "my.yaml", "stage1", "stage2"]
    assert subprocess.run(command, env={**cluster, "ENDS": ends}).returncode == int(ends)
    log = (tmp_path / "log").read_text()
    assert "requeue" not in log and ("stage2" in log) == (ends == "0")


def test_jobs_of_a_recipe_wait_for_each_other(cluster, tmp_path):
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text('#!/usr/bin/env bash\necho "sbatch $*" >> "$LOG"; wc -l < "$LOG"\n')
    sbatch.chmod(0o755)
    command = ["bash", SCRIPTS / "slurm" / "submit.sh", "my.yaml", "--", "--set", "a=b"]
    subprocess.run(command, env={**cluster, "SBATCH_TRAIN": "--nodes=2"}, check=True, capture_output=True)
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 5 and "--dependency" not in lines[0] and all("--set a=b" in line for line in lines)
    assert ["--nodes=2" in line for line in lines] == [False, True, False, True, False]
    assert all(f"--dependency=afterok:{n}" in line for n, line in enumerate(lines[1:], 1))


def test_a_job_without_stages_says_how_it_is_used(cluster):
    for name in ("train", "data"):
        found = subprocess.run(
            ["bash", SCRIPTS / "slurm" / f"{name}.sbatch", "my.yaml"], env=cluster, capture_output=True, text=True
        )
        assert found.returncode == 2 and "usage: sbatch" in found.stderr
