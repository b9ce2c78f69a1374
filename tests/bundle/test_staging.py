"""The race on an output path: whatever appears there while a command works is not lost."""

from __future__ import annotations

import os
import random
import shutil
from typing import IO, TYPE_CHECKING, Any

import pytest

from effsam_export.bundle import archive, attest, read, staging, write
from effsam_export.errors import OutputError
from tests.bundle import fake, rivals

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Callable
    from pathlib import Path


def stage(output: Path, between: Callable[[], object], *, force: bool, keep: bool = False) -> None:
    """Write a bundle of one file to `output`; call `between` before it is moved there."""
    with staging.staged(output, replaces=staging.is_bundle if force else None, keep=keep) as work:
        (work / "made").write_text("made")
        between()


@pytest.mark.parametrize("force", [False, True])
def test_whatever_appears_is_kept_or_was_replaceable(tmp_path: Path, force: bool) -> None:
    chance = random.Random(20)
    for number, rival in enumerate(rivals.rivals(chance, 200)):
        parent = tmp_path / str(number)
        parent.mkdir()
        output = parent / "out"
        before: dict[str, bytes | str] = {}

        def appear() -> None:
            rival.write(output)  # noqa: B023 - called before the next turn
            before.update(rivals.contents(output))  # noqa: B023

        if rival.replaceable or (force and rival.bundle):
            stage(output, appear, force=force, keep=True)
            assert [p.name for p in output.iterdir()] == ["made"], rival
            assert [p.name for p in parent.iterdir()] == ["out"], rival
            continue
        with pytest.raises(OutputError, match="was created or changed") as caught:
            stage(output, appear, force=force, keep=True)
        assert rivals.contents(output) == before, rival
        assert (parent / "out.finished" / "made").read_text() == "made", rival
        assert caught.value.hint == f"the finished result is `{parent / 'out.finished'}`"
        assert sorted(p.name for p in parent.iterdir()) == ["out", "out.finished"], rival


def test_a_result_that_is_not_kept_is_removed(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(OutputError, match="meanwhile"):
        stage(output, lambda: fake.write(output), force=False)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_kept_results_replace_nothing_either(tmp_path: Path) -> None:
    (tmp_path / "out.finished").write_text("mine")
    (tmp_path / "out.finished-2").symlink_to(tmp_path / "nowhere")
    output = tmp_path / "out"
    with pytest.raises(OutputError) as caught:
        stage(output, lambda: output.write_text("mine"), force=True, keep=True)
    assert (tmp_path / "out.finished-3" / "made").is_file()
    assert "out.finished-3" in str(caught.value.hint)
    assert (tmp_path / "out.finished").read_text() == "mine"


def test_a_bundle_exchanged_between_the_look_and_the_swap_stays(tmp_path: Path) -> None:
    output = fake.write(tmp_path / "out")
    asked: list[Path] = []

    def replaces(path: Path) -> bool:
        asked.append(path)
        # The second question is about the directory that was moved away.
        return len(asked) == 1

    with pytest.raises(OutputError), staging.staged(output, replaces=replaces) as work:
        (work / "made").write_text("made")
    assert len(asked) == 2
    assert staging.is_bundle(output)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_old_bundle_survives_a_swap_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = fake.write(tmp_path / "out")
    original = type(output).rename

    def fail_on_the_new_one(self: Path, target: Path) -> Path:
        if self.name == "new" and not os.path.lexists(output):
            raise OSError(5, "Input/output error")
        return original(self, target)

    monkeypatch.setattr(type(output), "rename", fail_on_the_new_one)
    with pytest.raises(OutputError, match="input/output error"):
        stage(output, lambda: None, force=True)
    assert staging.is_bundle(output)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_old_bundle_survives_an_interruption_in_the_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = fake.write(tmp_path / "out")
    original = type(output).rename

    def interrupt(self: Path, target: Path) -> Path:
        if self.name == "new" and not os.path.lexists(output):
            raise KeyboardInterrupt
        return original(self, target)

    monkeypatch.setattr(type(output), "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        stage(output, lambda: None, force=True)
    assert staging.is_bundle(output)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", [".", "..", "/", "n" * 231, "ü" * 120, "n" * 5000])
def test_a_path_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=r"as a whole|has more than 230 bytes"):
        staging.check_output_free(type(tmp_path)(name), force=True)


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"name": "an app"}', "[" * 100_000, "\udc80"])
def test_a_manifest_of_others_makes_no_bundle(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert not staging.is_bundle(tmp_path)
    with pytest.raises(OutputError, match="is not a bundle"):
        staging.check_output_free(tmp_path, force=True)


def test_a_link_to_a_bundle_is_none(tmp_path: Path) -> None:
    bundle = fake.write(tmp_path / "bundle")
    (tmp_path / "link").symlink_to(bundle)
    assert staging.is_bundle(bundle)
    assert not staging.is_bundle(tmp_path / "link")


# ------------------------------------------------------------------ the commands that write


def test_unpack_does_not_replace_what_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = fake.write(tmp_path / "bundle")
    archive.pack(bundle, tmp_path / "b.zip")
    output = tmp_path / "out"
    original = archive._extract

    def appear(file: Path, opened: zipfile.ZipFile, work: Path) -> None:
        original(file, opened, work)
        output.mkdir()
        (output / "mine").write_text("mine")

    monkeypatch.setattr(archive, "_extract", appear)
    with pytest.raises(OutputError, match="meanwhile"):
        archive.unpack(tmp_path / "b.zip", output, force=True)
    assert [p.name for p in output.iterdir()] == ["mine"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.zip", "bundle", "out"]


@pytest.mark.parametrize("existed", [False, True])
def test_pack_replaces_only_a_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existed: bool
) -> None:
    bundle = fake.write(tmp_path / "bundle")
    output = tmp_path / "b.zip"
    if existed:
        output.write_text("old")
    original = shutil.copyfileobj

    def appear(source: IO[bytes], sink: IO[bytes], length: int) -> None:
        output.write_text("mine")
        original(source, sink, length)

    monkeypatch.setattr(shutil, "copyfileobj", appear)
    if existed:
        archive.pack(bundle, output)
        assert output.read_bytes()[:2] == b"PK"
    else:
        with pytest.raises(OutputError, match="was created by another program meanwhile"):
            archive.pack(bundle, output)
        assert output.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.zip", "bundle"]


def test_two_attestations_at_once_lose_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = read.read(fake.write(tmp_path / "bundle"))
    entry = attest.Attestation(
        device="Pixel 8",
        runtime="LiteRT",
        version="1",
        language="kotlin",
        signed=False,
        min_iou=1.0,
        score_error=0.0,
        manifest_sha256="0" * 64,
    )
    original = write.list_files

    def other(work: Path) -> list[dict[str, Any]]:
        manifest = bundle.path / "manifest.json"
        manifest.write_text(manifest.read_text() + "\n")
        return original(work)

    monkeypatch.setattr(write, "list_files", other)
    with pytest.raises(OutputError, match="changed by another program"):
        attest.add(bundle, entry, b"{}")
    assert not (bundle.path / "attestations").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
