"""A bundle as one file: the same bytes each time, and no way to put anything else into it."""

from __future__ import annotations

import hashlib
import os
import struct
import time
import zipfile
from typing import TYPE_CHECKING

import pytest

from effsam_export.bundle import archive, read
from effsam_export.bundle.manifest import MAX_MANIFEST_BYTES
from effsam_export.errors import BundleError, OutputError
from tests.bundle import fake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    Entry = tuple[zipfile.ZipInfo, bytes]

LINK = 0o120777 << 16
SHA256 = "a19e070d1cb0bfaa9cc0209f794885c88810684e1357826e08986bcfcf640c04"
"""Of the archive of a bundle with a manifest of version 3, which does not change any more."""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return fake.write(tmp_path / "tiny")


@pytest.fixture
def packed(bundle: Path, tmp_path: Path) -> Path:
    archive.pack(bundle, tmp_path / "tiny.effsam.zip")
    return tmp_path / "tiny.effsam.zip"


def contents(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_there_and_back_nothing_is_lost(bundle: Path, packed: Path, tmp_path: Path) -> None:
    archive.unpack(packed, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(bundle)
    assert read.integrity(read.read(tmp_path / "out")) == ()


# ------------------------------------------------------------------ the format, to the byte


def test_equal_bundles_are_equal_bytes(bundle: Path, packed: Path, tmp_path: Path) -> None:
    # Other times, rights and order on disk.
    other = tmp_path / "other"
    for name in sorted(contents(bundle), reverse=True):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_bytes((bundle / name).read_bytes())
        (other / name).chmod(0o600)
        os.utime(other / name, (time.time() - 1e6, time.time() - 1e6))
    archive.pack(other, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_the_bytes_of_the_format_have_not_changed(tmp_path: Path) -> None:
    """A difference is a new version of the format (`docs/reference/bundle-format.md`), or a bug."""
    bundle, file = fake.write(tmp_path / "tiny", 3), tmp_path / "tiny.effsam.zip"
    archive.pack(bundle, file)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == SHA256


def test_each_byte_is_where_the_specification_puts_it(bundle: Path, packed: Path) -> None:
    data = packed.read_bytes()
    names = ["manifest.json", *sorted(set(contents(bundle)) - {"manifest.json"})]
    place = 0
    for name in names:
        # PKZIP APPNOTE 4.3.7, local file header.
        found = struct.unpack_from("<4s5H3I2H", data, place)
        magic, _, flags, method, clock, date, _, stored, size, length, extra = found
        assert (magic, flags, method, clock, date, extra) == (b"PK\x03\x04", 0, 0, 0, 0x21, 0)
        assert data[place + 30 : place + 30 + length].decode() == name
        start = place + 30 + length
        assert stored == size
        assert data[start : start + size] == (bundle / name).read_bytes()
        place = start + size
    assert data[place : place + 4] == b"PK\x01\x02"


def test_a_broken_bundle_is_not_packed(bundle: Path, tmp_path: Path) -> None:
    (bundle / "README.md").write_text("another")
    (bundle / "more.txt").write_text("more")
    with pytest.raises(BundleError, match="is not intact") as error:
        archive.pack(bundle, tmp_path / "out.zip")
    assert "`README.md` has 7 bytes" in error.value.message
    assert "`more.txt` is not in the manifest" in error.value.message
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


def test_an_output_path_that_cannot_be_written(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        archive.pack(bundle, tmp_path / "absent" / "out.zip")


# ------------------------------------------------------------------ what is refused


def rewritten(packed: Path, change: Callable[[list[Entry]], Iterable[Entry]]) -> Path:
    """The same file with other entries."""
    with zipfile.ZipFile(packed) as source:
        entries = [(e, source.read(e)) for e in source.infolist()]
    path = packed.with_name("changed.zip")
    with zipfile.ZipFile(path, "w") as sink:
        for entry, data in change(entries):
            sink.writestr(entry, data, entry.compress_type)
    return path


def entry(name: str, *, mode: int = archive.REGULAR_FILE << 16, method: int = 0) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name, archive.EPOCH)
    made.external_attr, made.compress_type = mode, method
    return made


def refused(path: Path, tmp_path: Path) -> str:
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(BundleError) as error:
        archive.unpack(path, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    return error.value.message


@pytest.mark.parametrize(
    "name",
    ["../evil", "golden/../../evil", "/tmp/evil", "C:evil", "..\\evil", "golden\\evil", "x/../y"],
)
def test_a_name_that_leaves_the_bundle(packed: Path, tmp_path: Path, name: str) -> None:
    path = rewritten(packed, lambda entries: [*entries, (entry(name), b"x")])
    assert f"`{name}` lies outside the bundle" in refused(path, tmp_path)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", ["golden//x", "./x", "x/", "x/./y"])
def test_a_name_that_is_not_plain(packed: Path, tmp_path: Path, name: str) -> None:
    path = rewritten(packed, lambda entries: [*entries, (entry(name), b"")])
    assert f"`{name}` is not a normalized path" in refused(path, tmp_path)


def test_a_link(packed: Path, tmp_path: Path) -> None:
    def link(entries: list[Entry]) -> list[Entry]:
        return [
            (entry(e.filename, mode=LINK), b"/etc/passwd") if e.filename == "README.md" else (e, d)
            for e, d in entries
        ]

    assert "`README.md` is a link" in refused(rewritten(packed, link), tmp_path)


def test_a_bomb_is_not_even_opened(packed: Path, tmp_path: Path) -> None:
    bomb = (entry("bomb", method=zipfile.ZIP_DEFLATED), b"\0" * 50_000_000)
    path = rewritten(packed, lambda entries: [*entries, bomb])
    assert path.stat().st_size < 100_000
    assert "`bomb` is compressed" in refused(path, tmp_path)


def test_a_size_that_lies(packed: Path, tmp_path: Path) -> None:
    data = bytearray(packed.read_bytes())
    # The directory's sizes of the last entry: as if 4 GB would follow.
    place = data.rindex(b"PK\x01\x02")
    struct.pack_into("<2I", data, place + 20, 0xFFFF0000, 0xFFFF0000)
    lying = packed.with_name("lying.zip")
    lying.write_bytes(data)
    assert "overlaps another entry" in refused(lying, tmp_path)


def test_entries_that_share_bytes_of_the_file(packed: Path, tmp_path: Path) -> None:
    data = bytearray(packed.read_bytes())
    places = [data.find(b"PK\x01\x02")]
    while (place := data.find(b"PK\x01\x02", places[-1] + 1)) >= 0:
        places.append(place)
    # Where the file of the first entry begins.
    for place in places[-2:]:
        struct.pack_into("<I", data, place + 42, struct.unpack_from("<I", data, places[0] + 42)[0])
    shared = packed.with_name("shared.zip")
    shared.write_bytes(data)
    assert "overlaps another entry" in refused(shared, tmp_path)


def test_a_large_signature(packed: Path, tmp_path: Path) -> None:
    large = (entry("manifest.json.sig"), b"x" * 5000)
    path = rewritten(packed, lambda entries: [*entries, large])
    assert "`manifest.json.sig` has 5000 bytes, want 64" in refused(path, tmp_path)


def test_a_directory_of_an_archive_is_no_file(tmp_path: Path) -> None:
    assert "is not a file" in refused(tmp_path, tmp_path)


def test_a_manifest_that_is_a_bomb(packed: Path, tmp_path: Path) -> None:
    large = b" " * (MAX_MANIFEST_BYTES + 1)
    path = rewritten(
        packed,
        lambda entries: [(e, large if e.filename == "manifest.json" else d) for e, d in entries],
    )
    assert "its manifest has 16000001 bytes" in refused(path, tmp_path)


def test_a_manifest_too_deep_to_read(packed: Path, tmp_path: Path) -> None:
    deep = b"[" * 1000
    path = rewritten(
        packed,
        lambda entries: [(e, deep if e.filename == "manifest.json" else d) for e, d in entries],
    )
    assert "is nested deeper than 64 levels" in refused(path, tmp_path)


def test_other_contents_of_the_same_size(packed: Path, tmp_path: Path) -> None:
    def other(entries: list[Entry]) -> list[Entry]:
        return [(e, d[::-1] if e.filename == "encoder.onnx" else d) for e, d in entries]

    message = refused(rewritten(packed, other), tmp_path)
    assert "`encoder.onnx` has another sha256 than the manifest" in message


def test_all_problems_are_reported_at_once(packed: Path, tmp_path: Path) -> None:
    def wrong(entries: list[Entry]) -> list[Entry]:
        kept = [(e, d) for e, d in entries if e.filename != "parity.json"]
        return [*kept, (entry("encoder.onnx.data"), b"more weights")]

    message = refused(rewritten(packed, wrong), tmp_path)
    assert "`encoder.onnx.data` is not in the manifest" in message
    assert "`parity.json` is missing" in message


def test_the_same_name_twice(packed: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = rewritten(packed, lambda entries: [*entries, (entry("README.md"), b"x")])
    assert "`README.md` occurs twice" in refused(path, tmp_path)
    shout = rewritten(packed, lambda entries: [*entries, (entry("readme.MD"), b"x")])
    assert "`readme.MD` occurs twice" in refused(shout, tmp_path)


def test_an_encrypted_entry(packed: Path, tmp_path: Path) -> None:
    data = bytearray(packed.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    struct.pack_into("<H", data, place + 8, archive.ENCRYPTED)
    locked = packed.with_name("locked.zip")
    locked.write_bytes(data)
    assert "is encrypted" in refused(locked, tmp_path)


def test_a_name_that_is_no_text(packed: Path, tmp_path: Path) -> None:
    data = bytearray(packed.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    # Said to be UTF-8, and is not (found by changing bytes at random).
    struct.pack_into("<H", data, place + 8, 0x800)
    data[place + 46] = 0x89
    bad = packed.with_name("bad.zip")
    bad.write_bytes(data)
    assert "is not a complete zip file" in refused(bad, tmp_path)


def test_a_file_without_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as sink:
        sink.writestr("hello.txt", "hello")
    assert "is not a bundle: it has no `manifest.json`" in refused(path, tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.999])
def test_half_a_file(packed: Path, tmp_path: Path, keep: float) -> None:
    data = packed.read_bytes()
    half = tmp_path / "half.zip"
    half.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    assert "is not a complete zip file" in refused(half, tmp_path)


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "absent.zip", tmp_path)


def test_only_a_bundle_is_replaced_and_only_with_force(packed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not a bundle"):
        archive.unpack(packed, out, force=True)
    assert (out / "mine.txt").read_text() == "mine"
    archive.unpack(packed, tmp_path / "second")
    with pytest.raises(OutputError, match="exists already"):
        archive.unpack(packed, tmp_path / "second")
    archive.unpack(packed, tmp_path / "second", force=True)


def test_a_file_is_opened_as_if_it_were_a_directory(packed: Path, bundle: Path) -> None:
    with archive.opened(packed) as path:
        assert path.name == "tiny"
        assert contents(path) == contents(bundle)
    assert not path.exists()
    with archive.opened(bundle) as same:
        assert same == bundle
