"""Open a weight file of any format: PyTorch's two, safetensors, a zip of one, an index of shards.

The content is the file's own tree of dictionaries, lists and objects, as inert values. Tensors are
its leaves; they are made one by one, while the file is open.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effsam_export.errors import CheckpointError, shown
from effsam_export.util.files import reading
from effsam_export.weights import torch_file
from effsam_export.weights.inert import Unreadable
from effsam_export.weights.tensors import Maker

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

HINT = "use the authors' file as it was downloaded; `effsam fetch MODEL` downloads it"
WEIGHT_SUFFIXES = (".pt", ".pth", ".safetensors")
INDEX_SUFFIX = ".index.json"
MAX_INDEX_BYTES = 16_000_000
"""Limit of an index file: a million names of 16 characters."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """An opened weight file.

    Attributes:
        content: Dictionaries, lists, and the records of `inert`; a safetensors file is one
            dictionary of tensors.
        make: Takes a tensor's name, for messages, and its value in `content`; returns it on the
            CPU. Raises `Unreadable` if it is not a plain tensor of the file.
        container: The file's format in words.
    """

    content: Any
    make: Callable[[str, Any], Tensor]
    container: str


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Open a weight file. Nothing that it names is imported or run.

    Raises:
        CheckpointError: The file cannot be read.
    """
    if path.exists() and not path.is_file():
        raise CheckpointError(f"`{path}` is not a regular file", hint=HINT)
    with reading(path), ExitStack() as stack:
        name = f"`{path}`"
        try:
            if path.name.endswith(INDEX_SUFFIX):
                yield _index(path, stack)
            else:
                yield _file(path, stack, archived=False)
        except Unreadable as error:
            raise CheckpointError(
                f"{name} cannot be read as a checkpoint: {error}", hint=error.hint or HINT
            ) from error


def _file(path: Path, stack: ExitStack, *, archived: bool) -> Source:
    """Open one file of any format; `stack` keeps it open."""
    file = stack.enter_context(path.open("rb"))
    head = file.read(9)
    file.seek(0)
    if head[8:9] == b"{":
        return Source(content=_safetensors(path), make=_as_it_is, container="safetensors")
    if not head.startswith(b"PK"):
        return _of_torch(torch_file.read(file), "PyTorch (format before 1.6)")
    archive = stack.enter_context(torch_file.open_archive(file))
    # A weight file in an archive is no archive of others, or it could go on forever.
    inner = None if archived else _only_weight_file(archive)
    if inner is None:
        return _of_torch(torch_file.read_zip(archive, torch_file.length_of(file)), "PyTorch")
    return _archived(archive, inner, stack)


def _of_torch(file: torch_file.TorchFile, container: str) -> Source:
    return Source(content=file.content, make=Maker(file).tensor, container=container)


def _safetensors(path: Path) -> Mapping[str, Tensor]:
    import safetensors.torch

    try:
        return safetensors.torch.load_file(str(path))
    except OSError:
        raise
    except Exception as error:  # Damaged headers raise several types of exceptions.
        raise Unreadable("it is a broken safetensors file") from error


def _as_it_is(name: str, value: Tensor) -> Tensor:
    del name
    return value


def _only_weight_file(archive: zipfile.ZipFile) -> zipfile.ZipInfo | None:
    """Return the only weight file in a zip archive; None for PyTorch's own zip files."""
    infos = [i for i in archive.infolist() if not i.filename.endswith("/")]
    if any(i.filename.endswith("data.pkl") for i in infos):
        return None
    weights = [
        i for i in infos if i.filename.endswith(WEIGHT_SUFFIXES) and "__MACOSX" not in i.filename
    ]
    return weights[0] if len(weights) == 1 else None


def _archived(archive: zipfile.ZipFile, member: zipfile.ZipInfo, stack: ExitStack) -> Source:
    """Open a member of an archive through a temporary file, whose path ignores its name."""
    import tempfile
    from pathlib import Path as LocalPath

    folder = stack.enter_context(tempfile.TemporaryDirectory())
    inner = LocalPath(folder) / "weights"
    torch_file.extract(archive, member, inner)
    try:
        source = _file(inner, stack, archived=True)
    except Unreadable as error:
        raise Unreadable(f"its member `{shown(member.filename)}`: {error}", error.hint) from error
    return Source(
        content=source.content,
        # Copied into memory, because the temporary file is deleted with the stack.
        make=lambda name, value: source.make(name, value).clone(),
        container=f"{source.container} in a zip archive",
    )


def _index(path: Path, stack: ExitStack) -> Source:
    """Open the shards that an index names (transformers), as one dictionary of tensors."""
    makers: dict[int, Callable[[str, Any], Tensor]] = {}
    content: dict[str, Any] = {}
    container = "PyTorch"
    for shard in shards_of(path):
        source = _file(shard, stack, archived=False)
        entries = source.content.entries if hasattr(source.content, "entries") else source.content
        if not isinstance(entries, dict):
            raise Unreadable(f"its shard `{shown(shard.name)}` holds no state dict")
        content |= entries
        makers |= {id(value): source.make for value in entries.values()}
        container = source.container
    return Source(
        content=content,
        make=lambda name, value: makers[id(value)](name, value),
        container=f"{container} in shards",
    )


def shards_of(index: Path) -> list[Path]:
    """Return the files that an index (`*.index.json`) names, which lie beside it.

    Raises:
        CheckpointError: It is no index, or a shard is missing.
    """
    hint = "download all shards into the folder of the index"
    with reading(index):
        size = index.stat().st_size
        text = index.read_bytes() if size <= MAX_INDEX_BYTES else b""
    try:
        names = sorted({str(n) for n in json.loads(text)["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"`{index}` is not an index of weight files", hint="name the weight file"
        ) from error
    # A name with a folder could be any file of this machine.
    if inside := [n for n in names if "/" in n or "\\" in n or n in ("", ".", "..")]:
        raise CheckpointError(
            f"`{index}` names a file in another folder: `{shown(inside[0])}`", hint=hint
        )
    paths = [index.with_name(n) for n in names]
    if absent := [p.name for p in paths if not p.is_file()]:
        raise CheckpointError(
            f"`{index}` names {len(absent)} of {len(paths)} shards that are not beside it, as "
            f"`{shown(absent[0])}`",
            hint=hint,
        )
    if not paths:
        raise CheckpointError(f"`{index}` names no weight file", hint=hint)
    return paths
