"""What another program may put at an output path while a command works."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAMES = ("notes.txt", "report.html", "parity.json", "manifest.json", ".git", "ü", "a b")


@dataclass(frozen=True, kw_only=True)
class Rival:
    """Something at an output path.

    Attributes:
        kind: Its kind.
        write: Writes it.
        replaceable: An empty directory, which holds nothing to lose.
        bundle: A bundle, which `--force` may replace.
    """

    kind: str
    write: Callable[[Path], None]
    replaceable: bool = False
    bundle: bool = False


def rivals(chance: random.Random, number: int) -> Iterator[Rival]:
    """Yield a number of rivals, of all kinds in turn."""
    kinds = (_empty, _folder, _file, _link, _dangling, _foreign_manifest, _bundle, _pipe)
    for i in range(number):
        yield kinds[i % len(kinds)](chance)


def contents(path: Path) -> dict[str, bytes | str]:
    """Return everything at a path: relative path -> content, or the target of a link."""
    if path.is_symlink():
        return {".": f"link to {path.readlink()}"}
    if path.is_dir():
        found: dict[str, bytes | str] = {".": "folder"}
        for child in sorted(path.iterdir()):
            for name, content in contents(child).items():
                found[f"{child.name}/{name}"] = content
        return found
    return {".": path.read_bytes() if path.is_file() else "special"}


def _empty(chance: random.Random) -> Rival:
    del chance
    return Rival(kind="empty", write=lambda path: path.mkdir(), replaceable=True)


def _folder(chance: random.Random) -> Rival:
    names = chance.sample(NAMES, chance.randint(1, len(NAMES)))
    content = chance.randbytes(chance.randint(0, 40))
    nested = chance.random() < 0.5

    def write(path: Path) -> None:
        folder = path / "deep" if nested else path
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_bytes(content)

    return Rival(kind="folder", write=write)


def _file(chance: random.Random) -> Rival:
    text = chance.choice(("", "mine", "{}"))

    def write(path: Path) -> None:
        path.write_text(text)

    return Rival(kind="file", write=write)


def _link(chance: random.Random) -> Rival:
    full = chance.random() < 0.5

    def write(path: Path) -> None:
        target = path.parent.parent / f"target-{path.parent.name}"
        target.mkdir()
        if full:
            (target / "mine").write_text("mine")
        path.symlink_to(target)

    return Rival(kind="link to a folder", write=write)


def _dangling(chance: random.Random) -> Rival:
    target = chance.choice(("nowhere", "/nowhere/at/all", "out"))
    return Rival(kind="dangling link", write=lambda path: path.symlink_to(target))


def _foreign_manifest(chance: random.Random) -> Rival:
    text = chance.choice(("{}", "[]", '{"name": "app", "version": 3}', "{", '{"files": []}'))

    def write(path: Path) -> None:
        path.mkdir()
        (path / "manifest.json").write_text(text)

    return Rival(kind="another manifest", write=write)


def _bundle(chance: random.Random) -> Rival:
    document = {"manifest_version": chance.randint(1, 9), "files": []}

    def write(path: Path) -> None:
        path.mkdir()
        (path / "manifest.json").write_text(json.dumps(document))

    return Rival(kind="bundle", write=write, bundle=True)


def _pipe(chance: random.Random) -> Rival:
    del chance
    return Rival(kind="pipe", write=os.mkfifo)
