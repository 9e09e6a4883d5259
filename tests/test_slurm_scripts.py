"""The Slurm scripts, with stand-ins for Slurm's commands: what they start, how they stop, what they leave behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from calibadv.data.run_files import checkpoints
from calibadv.training import read_metrics

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "configs" / "slurm").glob("*.sbatch"))
TRAIN, RETRIEVER = (ROOT / "configs" / "slurm" / f"{name}.sbatch" for name in ("train", "retriever"))

SRUN = """\
#!/bin/bash
# The step of a job: the command once for every machine, each knowing its number.
tasks=1
while [[ $1 == --* ]]; do [[ $1 != --ntasks=* ]] || tasks=${1#--ntasks=}; shift; done
pids=()
for ((node = 0; node < tasks; node++)); do
    SLURM_NODEID=$node "$@" &
    pids+=($!)
    echo $! >>"$FAKE/tasks"
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit $status
"""
SCANCEL = '#!/bin/bash\necho "$*" >>"$FAKE/scancel"\nkill -USR1 $(cat "$FAKE/tasks")\n'
SCONTROL = """\
#!/bin/bash
if [ "$1" = show ]; then printf 'first\\nsecond\\n'; else echo "$*" >>"$FAKE/scontrol"; fi
"""
ACCELERATE = '#!/bin/bash\necho "$*" >>"$FAKE/accelerate.$SLURM_NODEID"\n'
# accelerate starts nothing over gloo on machines without GPUs; what it stands on does.
TORCHRUN = """\
#!/bin/bash
while [ "$1" != -m ]; do
    case $1 in
        --num_machines) nodes=$2 ;; --num_processes) processes=$2 ;; --machine_rank) rank=$2 ;;
        --main_process_ip) ip=$2 ;; --main_process_port) port=$2 ;;
    esac
    shift
done
exec "$PYTHON" -m torch.distributed.run --nnodes "$nodes" --nproc-per-node "$((processes / nodes))" \\
    --node_rank "$rank" --master_addr "$ip" --master_port "$port" "$@"
"""
CALIBADV = """\
#!/bin/bash
echo "$*" >>"$FAKE/calibadv"
trap 'echo stopped >>"$FAKE/calibadv"; exit 143' TERM
while :; do sleep 0.05; done
"""

Job = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """Start a script as sbatch would on the first machine of a job, in ``tmp_path``."""
    fake = tmp_path / "fake"
    (fake / "bin").mkdir(parents=True)
    started = []

    def start(script: Path, *args: str, accelerate: str = ACCELERATE, **environment: str) -> subprocess.Popen[bytes]:
        commands = {
            "srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL, "accelerate": accelerate, "calibadv": CALIBADV,
        }  # fmt: skip
        for name, text in commands.items():
            (fake / "bin" / name).write_text(text, encoding="utf-8")
            (fake / "bin" / name).chmod(0o755)
        (fake / "tasks").write_text("")
        settings = {
            "PATH": f"{fake / 'bin'}:{os.environ['PATH']}", "FAKE": str(fake), "PYTHON": sys.executable,
            "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "first,second", "SLURM_NNODES": "2",
            "SLURM_GPUS_ON_NODE": "8",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }  # fmt: skip
        with (tmp_path / "output").open("wb") as output:
            process = subprocess.Popen(
                ["bash", str(script), *args], cwd=tmp_path, env={**os.environ, **settings, **environment},
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert process.poll() is None
        time.sleep(0.05)


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_say_how_they_are_used(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert re.search(rf"^#   sbatch .*configs/slurm/{script.name} ", script.read_text("utf-8"), re.MULTILINE)


def test_every_machine_of_a_job_starts_its_share_of_one_run(job: Job, tmp_path: Path) -> None:
    started = job(TRAIN, "configs/qwen2.5-7b.toml", "--set", "training.steps=10")
    assert started.wait(timeout=60) == 0, (tmp_path / "output").read_text()
    for node in range(2):
        assert lines(tmp_path / "fake" / f"accelerate.{node}") == [
            "launch --config_file configs/accelerate/fsdp2.yaml --num_machines 2 --num_processes 16 "
            f"--machine_rank {node} --main_process_ip first --main_process_port 24711 -m calibadv train "
            "configs/qwen2.5-7b.toml --set training.output=runs/qwen2.5-7b --set training.steps=10"
        ]
    assert lines(tmp_path / "fake" / "scontrol") == [], "a run that ends is not queued again"


def test_a_run_that_is_there_is_resumed_and_asks_the_retriever_of_today(job: Job, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "qwen2.5-3b"
    run.mkdir(parents=True)
    (run / "config.toml").touch()
    (tmp_path / "runs" / "retriever.url").write_text("http://node7:8000\n")
    started = job(TRAIN, "configs/qwen2.5-3b.toml", SLURM_NNODES="1")
    assert started.wait(timeout=60) == 0
    (command,) = lines(tmp_path / "fake" / "accelerate.0")
    assert command.endswith("calibadv train --resume runs/qwen2.5-3b --set retrieval.url=http://node7:8000")
    assert "--num_machines 1 --num_processes 8 " in command


def test_a_run_that_fails_fails_the_job_and_is_not_queued_again(job: Job, tmp_path: Path) -> None:
    started = job(TRAIN, "configs/lab.toml", accelerate="#!/bin/bash\nexit 3\n")
    assert started.wait(timeout=60) == 3
    assert lines(tmp_path / "fake" / "scontrol") == []


def test_before_its_time_is_over_the_processes_are_told_and_the_job_is_queued_again(job: Job, tmp_path: Path) -> None:
    worker = (
        'trap "echo saved >>$FAKE/saved; exit 143" TERM; touch $FAKE/up.$SLURM_NODEID; while :; do sleep 0.05; done'
    )
    launcher = f"#!/bin/bash\nbash -c '{worker}' &\nwait $! || exit 1\n"
    started = job(TRAIN, "configs/lab.toml", accelerate=launcher)
    fake = tmp_path / "fake"
    until(lambda: (fake / "up.0").exists() and (fake / "up.1").exists(), started)
    os.kill(started.pid, signal.SIGUSR1)
    assert started.wait(timeout=60) == 0, (tmp_path / "output").read_text()
    assert lines(fake / "saved") == ["saved", "saved"]
    assert lines(fake / "scancel") == ["--signal=USR1 4711"]
    assert lines(fake / "scontrol") == ["requeue 4711"]


def test_the_retriever_says_where_it_is_for_as_long_as_it_runs(job: Job, tmp_path: Path) -> None:
    url = tmp_path / "runs" / "retriever.url"
    started = job(RETRIEVER, "wiki-18/flat", CALIBADV_RETRIEVER_TOKEN="secret", PORT="8123")
    until(lambda: url.exists() and lines(tmp_path / "fake" / "calibadv"), started)
    assert re.fullmatch(r"http://[\w.-]+:8123\n", url.read_text())
    assert lines(tmp_path / "fake" / "calibadv") == [
        "retriever serve wiki-18/flat --host 0.0.0.0 --port 8123 --search-device cuda "
        "--rerank cross-encoder/ms-marco-MiniLM-L12-v2"
    ]
    os.kill(started.pid, signal.SIGTERM)
    assert started.wait(timeout=60) == 143
    assert not url.exists()
    deadline = [None] * 200
    while deadline and "stopped" not in lines(tmp_path / "fake" / "calibadv"):
        deadline.pop()
        time.sleep(0.05)
    assert "stopped" in lines(tmp_path / "fake" / "calibadv")


def test_a_retriever_for_other_machines_wants_a_token(job: Job, tmp_path: Path) -> None:
    started = job(RETRIEVER, "wiki-18/flat", CALIBADV_RETRIEVER_TOKEN="")
    assert started.wait(timeout=60) != 0
    assert "export one before sbatch" in (tmp_path / "output").read_text()


@pytest.mark.slow
def test_two_machines_train_one_run_stop_in_time_and_finish_it_in_the_next_job(job: Job, tmp_path: Path) -> None:
    """Two process groups over gloo on this machine, as two machines would hold them."""
    world = [sys.executable, "-m", "calibadv", "lab", "world", "--out", "runs/world"]
    subprocess.run(world, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, check=True)
    (tmp_path / "configs").mkdir()
    config = tmp_path / "configs" / "lab.toml"
    config.write_text((ROOT / "configs" / "lab.toml").read_text("utf-8"), encoding="utf-8")
    settings = [
        "steps=12", "questions_per_batch=4", "num_rollouts=4", "save_every=12", "eval_every=0", "warmup_steps=0",
    ]  # fmt: skip
    asked = [word for setting in settings for word in ("--set", f"training.{setting}")]
    here = {
        "SLURM_GPUS_ON_NODE": "1", "MAIN_PROCESS_IP": "127.0.0.1", "OMP_NUM_THREADS": "1",
        "MAIN_PROCESS_PORT": str(30_000 + os.getpid() % 10_000),
    }  # fmt: skip
    run = tmp_path / "runs" / "lab"
    first = job(TRAIN, "configs/lab.toml", *asked, accelerate=TORCHRUN, **here)
    until(lambda: len(lines(run / "metrics.jsonl")) > 0, first)
    os.kill(first.pid, signal.SIGUSR1)
    assert first.wait(timeout=240) == 0, (tmp_path / "output").read_text()
    assert lines(tmp_path / "fake" / "scontrol") == ["requeue 4711"]
    assert len(checkpoints(run)) == 1
    assert not (run / "model").exists()
    second = job(TRAIN, "configs/lab.toml", accelerate=TORCHRUN, **here)
    assert second.wait(timeout=240) == 0, (tmp_path / "output").read_text()
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl")] == [2, 4, 6, 8, 10, 12]
    assert (run / "model" / "model.safetensors").exists()
    assert len(list((run / "trajectories").glob("step-000012*"))) == 2, "each machine kept what it had played"
