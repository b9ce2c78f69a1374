"""Where a worker listens, which TLS files it takes, and what its help warns of."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from effsam_export.cli import app
from effsam_export.errors import UsageError
from effsam_export.matrix import cluster
from effsam_export.matrix.tls import TlsFiles, security
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("distributed")
pytestmark = pytest.mark.backend
LISTENING = "0A"


def start(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def sockets_of(process: int) -> list[tuple[str, int]]:
    """Return the addresses and ports on which a process listens, from Linux's tables."""
    inodes = set()
    for link in Path(f"/proc/{process}/fd").iterdir():
        with suppress(OSError):  # It was closed.
            inodes.add(str(link.readlink()))
    found = []
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            place, state, inode = (line.split()[i] for i in (1, 3, 9))
            if f"socket:[{inode}]" in inodes and (state == LISTENING or name.startswith("udp")):
                address, port = place.split(":")
                raw = bytes.fromhex(address)
                words = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
                family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
                found.append((socket.inet_ntop(family, words), int(port, 16)))
    return found


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def scheduler(processes: list[subprocess.Popen[bytes]], folder: Path, *options: str) -> str:
    file = folder / "scheduler.json"
    common = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    processes.append(start("-m", "distributed.cli.dask_scheduler", *common, *options))
    deadline = time.monotonic() + 60
    while not file.is_file() or not file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return str(json.loads(file.read_text())["address"])


def connected(address: str, tls: TlsFiles) -> int:
    """Wait for a worker of the scheduler, and return the number of its HTTP pages."""
    with cluster.connect(address, tls) as client:
        client.wait_for_workers(1, timeout=60)
        found = client.scheduler_info(n_workers=-1)["workers"]
        assert list(cluster.Cluster(client, {}).environments) == list(found)
        return sum(len(each["services"]) for each in found.values())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's tables of sockets")
@pytest.mark.parametrize("pages", [0, 1])
def test_a_worker_listens_on_the_schedulers_interface_only(
    tmp_path: Path, processes: list[subprocess.Popen[bytes]], pages: int
) -> None:
    address = scheduler(processes, tmp_path)
    more = ("--dashboard-port", "0") if pages else ()
    command = ("-m", "effsam_export", "worker", "--scheduler", address, "--memory", "1", *more)
    processes.append(start(*command))
    assert connected(address, TlsFiles()) == pages
    listening = sockets_of(processes[-1].pid)
    assert [host for host, _ in listening] == ["127.0.0.1"] * (1 + pages)


def test_a_worker_binds_to_its_address_on_the_route() -> None:
    from effsam_export.matrix.dask_worker import local_host

    assert local_host("tcp://127.0.0.1:8786") == "127.0.0.1"
    assert local_host("127.0.0.1:8786") == "127.0.0.1"
    assert local_host("tls://localhost:8786") in ("127.0.0.1", "::1")


@pytest.mark.parametrize("address", ["", "tcp://", "tcp://no.such.host.invalid:1", "x://y", "a:b"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(UsageError):
        cluster.serve(address, 1, 10.0, ())


# ------------------------------------------------------------------ TLS


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """Files of one authority, which is its own certificate."""
    pytest.importorskip("cryptography")
    from distributed.security import Security

    made = Security.temporary()  # type: ignore[no-untyped-call]
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_text(made.tls_ca_file)
    (folder / "key.pem").write_text(made.tls_client_key)
    return TlsFiles(ca_file=folder / "cert.pem", cert=folder / "cert.pem", key=folder / "key.pem")


def options(tls: TlsFiles) -> tuple[str, ...]:
    files = {"--tls-ca-file": tls.ca_file, "--tls-cert": tls.cert, "--tls-key": tls.key}
    return tuple(text for option, path in files.items() for text in (option, str(path)))


def test_a_worker_and_a_build_connect_by_tls(
    tmp_path: Path, processes: list[subprocess.Popen[bytes]], tls: TlsFiles
) -> None:
    address = scheduler(processes, tmp_path, "--protocol", "tls", *options(tls))
    assert address.startswith("tls://")
    command = ("-m", "effsam_export", "worker", "--scheduler", address, "--memory", "1")
    processes.append(start(*command, *options(tls)))
    assert connected(address, tls) == 0
    with pytest.raises(UsageError, match="needs TLS files"):
        cluster.connect(address)


def test_tls_files_that_cannot_be_used(tmp_path: Path, tls: TlsFiles) -> None:
    address = "tls://127.0.0.1:9"
    missing = TlsFiles(ca_file=tls.ca_file, cert=tmp_path / "no.pem")
    with pytest.raises(UsageError, match=r"`.*no\.pem` of --tls-cert does not exist"):
        security(missing, "client", address)
    with pytest.raises(UsageError, match="--tls-ca-file is missing"):
        security(TlsFiles(cert=tls.cert, key=tls.key), "worker", address)
    with pytest.raises(UsageError, match="is not an address of TLS"):
        security(tls, "worker", "tcp://127.0.0.1:9")
    assert tls.cert is not None
    broken = TlsFiles(ca_file=tls.ca_file, cert=tls.cert, key=tls.cert)
    with pytest.raises(UsageError, match="the TLS files cannot be used"):
        security(broken, "worker", address)
    assert security(TlsFiles(), "client", "tcp://127.0.0.1:9") is None
    settings = security(tls, "client", address)
    assert settings is not None
    assert settings.require_encryption
    arguments = settings.get_connection_args("client")  # type: ignore[no-untyped-call]
    assert isinstance(arguments["ssl_context"], ssl.SSLContext)


@pytest.mark.parametrize("command", ["worker", "build"])
def test_the_help_warns_in_plain_words(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "400"})
    words = " ".join(result.output.replace("│", " ").split())
    assert "can run any code" in words
    assert "--tls-ca-file" in words
