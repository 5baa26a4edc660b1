"""What launchers say, read from their variables; and meeting others who do not come."""

import socket
import threading
import time
from contextlib import suppress

import pytest
from rank_runs import free_port

from selectivemae.core.errors import ConfigError, ProcessError
from selectivemae.distributed.group import Group, first_host
from selectivemae.distributed.join import joined

TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "node7", "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2",
}  # fmt: skip
SLURM = {
    "SLURM_JOB_ID": "4242", "SLURM_STEP_ID": "0", "SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1",
    "SLURM_JOB_NODELIST": "gpu[003-004,9],big1",
}  # fmt: skip


def test_torchruns_variables() -> None:
    group = Group.from_environment(TORCHRUN)
    assert (group.rank, group.world, group.local_rank, group.attempt) == (5, 8, 1, 2)
    assert (group.address, group.port, group.hosted, group.is_main) == ("node7", 29500, True, False)


def test_slurms_variables() -> None:
    group = Group.from_environment(SLURM)
    assert (group.rank, group.world, group.local_rank, group.address, group.hosted) == (9, 16, 1, "gpu003", False)
    assert group.port == Group.from_environment(SLURM | {"SLURM_PROCID": "0"}).port
    assert 1024 < group.port < 65536
    assert Group.from_environment(SLURM | {"MASTER_ADDR": "login1", "MASTER_PORT": "777"}).address == "login1"


def test_without_a_launcher_a_process_is_by_itself() -> None:
    assert Group.from_environment({}) == Group.single()
    batch_script = {k: v for k, v in SLURM.items() if k != "SLURM_STEP_ID"} | {"SLURM_PROCID": "0"}
    assert Group.from_environment(batch_script) == Group.single()
    assert Group.from_environment(TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"}).world == 1


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("alone", "alone"),
        ("a1,a2", "a1"),
        ("node[03-07,12],other", "node03"),
        ("node[12]", "node12"),
        ("rack[1-2]node[08-09]", "rack1node08"),
        ("gpu-a[1,3]-ib", "gpu-a1-ib"),
        ("", ""),
    ],
)
def test_the_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (TORCHRUN | {"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        (TORCHRUN | {"RANK": "8"}, r"process 8 is none of 0\.\.7"),
        (TORCHRUN | {"WORLD_SIZE": "eight"}, "WORLD_SIZE must be a number, got 'eight'"),
        (SLURM | {"SLURM_JOB_NODELIST": ""}, "SLURM_JOB_NODELIST is not set"),
    ],
)
def test_variables_that_do_not_fit(variables: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Group.from_environment(variables)


def test_a_batch_is_divided_equally_or_not_at_all() -> None:
    assert Group(world=4).share(64, "--batch-size") == 16
    with pytest.raises(ConfigError, match=r"--batch-size 3 cannot be divided among 4 processes: use .* 4"):
        Group(world=4).share(3, "--batch-size")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_name_that_leads_nowhere_is_named_in_time(rank: int, capfd: pytest.CaptureFixture[str]) -> None:
    port, began = free_port(), time.monotonic()
    with (
        pytest.raises(ProcessError, match=rf"process {rank} of 2 .* no.such.host.invalid:{port} within 1 s"),
        joined(Group(rank, 2, address="no.such.host.invalid", port=port), meet=1.0),
    ):
        pass
    assert time.monotonic() - began < 20
    assert capfd.readouterr().err == ""  # no stack of torch's


def test_an_address_where_nobody_answers_is_named_in_time(capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    began = time.monotonic()
    with (
        pytest.raises(ProcessError, match=rf"process 1 of 2 .* 127.0.0.1:{port} within 1 s \(nobody answers"),
        joined(Group(1, 2, address="127.0.0.1", port=port), meet=1.0),
    ):
        pass
    assert time.monotonic() - began < 20
    assert capfd.readouterr().err == ""


def test_a_place_where_something_else_answers_is_said_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """As a web server does it; torch by itself logs a stack for every attempt."""

    def serve(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                caller, _ = server.accept()
                caller.recv(64)
                caller.sendall(b"HTTP/1.1 400 Bad Request" + 100 * b" ")
                caller.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        port = server.getsockname()[1]
        with (
            pytest.raises(ProcessError, match=rf"process 1 of 2 .* 127.0.0.1:{port} within 2 s"),
            joined(Group(1, 2, address="127.0.0.1", port=port), meet=2.0),
        ):
            pass
        server.shutdown(socket.SHUT_RDWR)
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(ProcessError, match=rf"process 0 of 2 .* 127.0.0.1:{port} .*the port cannot be listened at"),
            joined(Group(0, 2, address="127.0.0.1", port=port), meet=1.0),
        ):
            pass
    assert capfd.readouterr().err == ""


def test_missing_processes_are_named_in_time(capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    with (
        pytest.raises(ProcessError, match=rf"process 1, 2 of 3 did not come to 127.0.0.1:{port} within 1 s"),
        joined(Group(0, 3, address="127.0.0.1", port=port), meet=1.0),
    ):
        pass
    assert capfd.readouterr().err == ""
