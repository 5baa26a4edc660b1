"""The batch script of docs/scaling.md under a Slurm of one machine: its own controller and node, on this host."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rank_runs import free_port, outcome, write_images

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue", "sinfo")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "scaling.md"

# No munge and no cgroups: one user on one machine. The node claims two GPUs, which are files. A requeued job is held
# back until its old credential has expired (after two minutes; 5 s are enough here). A message that is sent again,
# because the answer is late on a busy machine, would end its next attempt.
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port1}
SlurmdPort={port2}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={here}/state
SlurmdSpoolDir={here}/spool
SlurmctldPidFile={here}/slurmctld.pid
SlurmdPidFile={here}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MessageTimeout=90
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
GresTypes=gpu
SchedulerParameters=sched_min_interval=1,sched_interval=2,bf_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 Gres=gpu:2
PartitionName=all Nodes=ALL Default=YES
"""


def wait_for(what: Callable[[], bool], seconds: float) -> bool:
    """Whether something comes true within ``seconds``."""
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.1)
    return what()


def said(*words: str) -> str:
    """What a program of Slurm's answers."""
    return subprocess.run(words, capture_output=True, text=True, timeout=20, check=False).stdout


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster of this machine alone, while the test runs."""
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"]))
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing or os.geteuid():
        pytest.skip(f"needs root and Slurm ({', '.join(missing) or 'installed'})")
    here, host = tmp_path / "slurm", socket.gethostname().partition(".")[0]
    for folder in ("state", "spool", "gpu"):
        (here / folder).mkdir(parents=True)
    for number in range(2):
        (here / "gpu" / f"gpu{number}").touch()
    settings = {"host": host, "here": here, "user": "root", "port1": free_port(), "port2": free_port()}
    (here / "slurm.conf").write_text(CONF.format(**settings))
    (here / "gres.conf").write_text(f"Name=gpu File={here}/gpu/gpu[0-1]\n")
    monkeypatch.setenv("SLURM_CONF", str(here / "slurm.conf"))
    daemons = []
    try:
        for program in ("slurmctld", "slurmd"):
            with open(here / f"{program}.log", "w") as log:
                daemons.append(subprocess.Popen([program, "-D"], stdout=log, stderr=log))
        if not wait_for(lambda: said("sinfo", "-h", "-o", "%T").strip() == "idle", 20):
            logs = [(here / f"{program}.log").read_text()[-500:] for program in ("slurmctld", "slurmd")]
            pytest.skip(f"Slurm does not come up here: {logs}")
        yield
        said("scancel", "--full", "--user", "root")
        wait_for(lambda: not said("squeue", "-h"), 10)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(20)


def tasks(out: Path) -> list[int]:
    """The processes that srun has started for a run, oldest first."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # no process, or gone by now
            continue
        if str(out).encode() in words and b"python" in words[0]:
            found.append(int(folder.name))
    return sorted(found)


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.usefixtures("slurm")
def test_the_batch_script_goes_on_after_a_kill_and_at_its_time_limit(tmp_path: Path) -> None:
    """A job loses a process to SIGKILL, then gets the SIGTERM that comes before the time limit, and ends by itself."""
    images, out, steps = write_images(tmp_path / "images"), tmp_path / "run", 60
    (text,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", PAGE.read_text(), flags=re.DOTALL)
    options = f"--data {images} --out {out} --model vit_tiny_patch8 --image-size 32 --decoder-depth 1 --batch-size 4"
    options += f" --samples-seen {4 * steps} --workers 0 --device cpu --checkpoint-steps 2 --picture-every 0 --quiet"
    text, places = re.subn(r"(selectivemae pretrain) .*?[^\\]\n", rf"\1 {options}\n", text, count=1, flags=re.DOTALL)
    assert places == 1
    (tmp_path / "job.sh").write_text(text)
    smaller = ["--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=2"]
    log = tmp_path / "job.txt"
    job = said("sbatch", "--parsable", *smaller, f"--output={log}", str(tmp_path / "job.sh")).strip()
    assert job.isdecimal()

    def done() -> int:
        metrics = out / "metrics.jsonl"
        return len([r for r in metrics.read_text().splitlines() if '"train"' in r]) if metrics.exists() else 0

    for disturb in (lambda: os.kill(tasks(out)[-1], signal.SIGKILL), lambda: said("scancel", "--signal=TERM", job)):
        before = done()
        assert wait_for(lambda before=before: done() >= before + 4, 200), log.read_text()
        disturb()
        assert wait_for(lambda: said("squeue", "-h", "-o", "%T").strip() == "PENDING", 90), log.read_text()
    assert wait_for(lambda: not said("squeue", "-h", "-o", "%T"), 200), log.read_text()
    assert list(outcome(out)[0]) == list(range(1, steps + 1))
    assert (out / "log.txt").read_text().count("going on from") == 2
    assert "continue with --resume" in log.read_text()
    state = dict(word.split("=", 1) for word in said("scontrol", "show", "job", job).split() if "=" in word)
    assert (state["JobState"], state["Restarts"], state["ExitCode"]) == ("COMPLETED", "2", "0:0"), json.dumps(state)
