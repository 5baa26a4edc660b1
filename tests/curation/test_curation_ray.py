"""The engine on a real Ray cluster of two nodes on this machine: the same outcome as the local engine."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from curation_worlds import Numbers, folder, write_numbers

from selectivemae.core.errors import ConfigError
from selectivemae.curation.config import CurateConfig
from selectivemae.curation.engine import InternalError, run_stage
from selectivemae.curation.ray_pool import RayPool
from selectivemae.curation.run import curate

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of two nodes of one core; their workers find the jobs of this folder by PYTHONPATH."""
    from ray.cluster_utils import Cluster

    here = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_log_monitor": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", here)
        patch.setenv("RAY_AUTH_MODE", "disabled")  # Ray would leave a token in the home folder
        cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False, "no_monitor": True})
        try:
            cluster.add_node(**node)
            cluster.wait_for_nodes()
            yield cluster.address
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture
def pool(cluster: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayPool]:
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    executor = RayPool()
    yield executor
    executor.close()


def numbers(place: Path) -> list[int]:
    return sorted(int(n) for path in place.glob("*.txt") for n in path.read_text().split())


def kill_ray_worker_once(task: Numbers, place: Path, mark) -> dict[str, int]:
    """Job: kills the Ray worker above this child process the first time, then itself as an orphan is."""
    mark(task.start, 60.0)
    if not Path(task.once).exists():
        Path(task.once).touch()
        os.kill(os.getppid(), signal.SIGKILL)
        os._exit(1)
    return write_numbers(task, place, mark)


def bug(task: Numbers, place: Path, mark) -> dict[str, int]:
    raise KeyError("a bug")


def test_deaths_on_the_cluster(pool: RayPool, tmp_path: Path) -> None:
    assert pool.size == 2
    tasks = [Numbers("a", 0, 10), Numbers("b", 10, 30, deadly=(13, 21)), Numbers("c", 30, 40, slow=(35,))]
    stage = run_stage(pool, write_numbers, tasks, tmp_path)
    assert [(q.task, q.member, q.reason) for q in stage.quarantined] == [
        ("b", 13, "worker_crash"),
        ("b", 21, "worker_crash"),
        ("c", 35, "timeout"),
    ]
    assert "Segmentation fault" in stage.quarantined[0].stderr
    assert numbers(tmp_path) == [n for n in range(40) if n not in (13, 21, 35)]


def test_a_killed_ray_worker_costs_nothing(pool: RayPool, tmp_path: Path) -> None:
    tasks = [Numbers("a", 0, 5, once=str(tmp_path / "died")), Numbers("b", 5, 9, once=str(tmp_path / "died"))]
    stage = run_stage(pool, kill_ray_worker_once, tasks, tmp_path)
    assert stage.quarantined == []
    assert stage.retries >= 1
    assert numbers(tmp_path) == list(range(9))


def test_the_same_bytes_as_the_local_engine(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths and all: only the folder differs."""
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    monkeypatch.chdir(tmp_path)
    folder(Path("pictures"), 10)
    for engine in ("local", "ray"):
        config = CurateConfig(sources=["pictures"], out=Path(engine), engine=engine, workers=2, chunk_members=4)
        assert curate(config, quiet=True).kept > 5
    assert Path("ray/SHA256SUMS").read_text() == Path("local/SHA256SUMS").read_text()


def test_bugs_and_paths_that_are_not_shared(pool: RayPool, tmp_path: Path) -> None:
    with pytest.raises(InternalError, match=r"Traceback[\s\S]*a bug"):
        run_stage(pool, bug, [Numbers("a", 0, 1)], tmp_path)
    pool.close()
    pool = RayPool()
    pool.check_shared([str(tmp_path)], tmp_path)
    with pytest.raises(ConfigError, match=r"node .* does not see .*nowhere"):
        pool.check_shared([str(tmp_path), str(tmp_path / "nowhere")], tmp_path)
    assert not list(tmp_path.glob(".shared-*"))
    pool.close()


def test_no_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ray.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"no Ray cluster runs at 127\.0\.0\.1:1"):
        RayPool()
