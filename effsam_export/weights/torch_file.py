"""The two containers of PyTorch's files: zip archives, and the older sequence of pickles.

Both give the pickled content as inert values, and the bytes of a storage by its name. Nothing is
read before its size is checked against the file.
"""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from effsam_export.weights import inert
from effsam_export.weights.inert import Unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
HEAD_BYTES = 1 << 16
"""Bound of each small pickle before the content of the older format."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MAX_EXPANSION = 8
"""How many times larger than their archive all members may be. Weights hardly compress."""
CHUNK = 1 << 20
ITEM_BYTES = {
    # Name of a storage's type -> bytes of an element.
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
    "UntypedStorage": 1,
    "QInt8Storage": 1,
    "QUInt8Storage": 1,
    "QInt32Storage": 4,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}


class Storages(Protocol):
    """The data of a file's storages, by name."""

    def size(self, key: str) -> int:
        """Return the number of bytes. Raises `Unreadable` if there is no such storage."""

    def read(self, key: str) -> bytearray:
        """Return the bytes. Raises `Unreadable` if they are damaged."""


@dataclass(frozen=True, kw_only=True)
class TorchFile:
    """An opened file of PyTorch.

    Attributes:
        content: As `inert.read` returns it.
        storages: The data that its `StorageRef`s stand for, until the file is closed.
        big_endian: The byte order of the data.
        length: Size of the file in bytes.
    """

    content: Any
    storages: Storages
    big_endian: bool
    length: int


def read(file: BinaryIO) -> TorchFile:
    """Read the content of a file in the older format.

    Raises:
        Unreadable: It is not such a file, or is damaged.
    """
    length = length_of(file)
    try:
        known = inert.read(file, HEAD_BYTES) == MAGIC
    except Unreadable:
        known = False
    if not known:
        raise Unreadable("it is not a PyTorch weight file")
    if inert.read(file, HEAD_BYTES) != VERSION:
        raise Unreadable("it has an unknown version of PyTorch's older format")
    system = inert.read(file, HEAD_BYTES)
    little = system.get("little_endian", True) if isinstance(system, dict) else True
    content = inert.read(file)
    keys = inert.read(file)
    if not isinstance(keys, list):
        raise Unreadable("it lacks the list of its storages")
    kinds = {ref.key: ref.kind for ref in inert.parts(content) if isinstance(ref, inert.StorageRef)}
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        head = file.read(8)
        if len(head) != 8 or not isinstance(key, (str, int)):
            raise Unreadable("it ends before the data of its tensors")
        (count,) = struct.unpack("<q" if little else ">q", head)
        size = count * ITEM_BYTES.get(kinds.get(str(key), ""), 1)
        if count < 0 or file.tell() + size > length:
            raise Unreadable("it ends within the data of a tensor")
        places[str(key)] = (file.tell(), size)
        file.seek(size, io.SEEK_CUR)
    storages = _SequenceStorages(file, places)
    return TorchFile(content=content, storages=storages, big_endian=not little, length=length)


class _SequenceStorages:
    """Storages behind the pickles of the older format, by their place in the file."""

    def __init__(self, file: BinaryIO, places: Mapping[str, tuple[int, int]]) -> None:
        self._file, self._places = file, places

    def size(self, key: str) -> int:
        if key not in self._places:
            raise Unreadable("it lacks the data of a tensor")
        return self._places[key][1]

    def read(self, key: str) -> bytearray:
        content = bytearray(self.size(key))
        self._file.seek(self._places[key][0])
        if self._file.readinto(content) != len(content):  # type: ignore[attr-defined]
            raise Unreadable("it ends within the data of a tensor")
        return content


def read_zip(archive: zipfile.ZipFile, length: int) -> TorchFile:
    """Read the content of a file in the zip format.

    Args:
        archive: Opened by `open_archive`.
        length: Size of the archive in bytes.

    Raises:
        Unreadable: It is not such a file, or is damaged.
    """
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name.endswith("data.pkl")]
    if len(pickles) != 1 or len(members) != len(archive.infolist()):
        raise Unreadable("it is not a PyTorch weight file")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in members:
        raise Unreadable(
            "it is a TorchScript program, not a weight file",
            "save its weights with torch: torch.save(torch.jit.load(FILE).state_dict(), OUTPUT)",
        )
    content = inert.read(io.BytesIO(_bytes(archive, members[pickles[0]], inert.MAX_BYTES)))
    order = members.get(f"{root}byteorder")
    big_endian = order is not None and _bytes(archive, order, HEAD_BYTES) == b"big"
    storages = _ZipStorages(archive, members, f"{root}data/")
    return TorchFile(content=content, storages=storages, big_endian=big_endian, length=length)


class _ZipStorages:
    """Storages in a zip archive, as members `<root>/data/<key>`."""

    def __init__(
        self, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], folder: str
    ) -> None:
        self._archive, self._members, self._folder = archive, members, folder

    def size(self, key: str) -> int:
        if f"{self._folder}{key}" not in self._members:
            raise Unreadable("it lacks the data of a tensor")
        return self._members[f"{self._folder}{key}"].file_size

    def read(self, key: str) -> bytearray:
        return _bytes(self._archive, self._members[f"{self._folder}{key}"], self.size(key))


def open_archive(file: BinaryIO) -> zipfile.ZipFile:
    """Open a zip archive, and check what it says of its members before any is read.

    Raises:
        Unreadable: It is damaged; or its members overlap, expand too far, or are compressed in a
            way that PyTorch does not use.
    """
    length = length_of(file)
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # Damaged directories raise many types of exceptions.
        raise Unreadable("its archive is damaged") from error
    infos = archive.infolist()
    if any(info.compress_type not in METHODS for info in infos):
        raise Unreadable("its archive is compressed in a way that PyTorch does not use")
    if sum(info.compress_size for info in infos) > length:
        raise Unreadable("the members of its archive overlap")
    if sum(info.file_size for info in infos) > MAX_EXPANSION * max(length, HEAD_BYTES):
        raise Unreadable(f"its archive would expand to over {MAX_EXPANSION} times its size")
    return archive


def _bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytearray:
    """Return a member of an archive, of at most `limit` bytes."""
    if info.file_size > limit:
        raise Unreadable(f"a member of its archive has over {limit} bytes")
    if info.CRC == 0:
        # Written by torch without checksums (`set_crc32_options(False)`); None is not compared.
        info.CRC = None  # type: ignore[assignment]
    content = bytearray(info.file_size)
    view, filled = memoryview(content), 0
    try:
        with archive.open(info) as member:
            # The checksum is compared when the end is read.
            while chunk := member.read(CHUNK):
                view[filled : filled + len(chunk)] = chunk
                filled += len(chunk)
    except Exception as error:  # zlib.error, BadZipFile, EOFError; RuntimeError for a password.
        raise Unreadable("a member of its archive is damaged") from error
    if filled != len(view):
        raise Unreadable("a member of its archive is damaged")
    return content


def extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    """Write a member of an archive to a file, of the size that the archive gives.

    Raises:
        Unreadable: The member is damaged.
        OSError: The file cannot be written.
    """
    with path.open("wb") as file:
        try:
            with archive.open(info) as member:
                while chunk := member.read(CHUNK):
                    file.write(chunk)
        except OSError:
            raise
        except Exception as error:
            raise Unreadable("a member of its archive is damaged") from error


def length_of(file: BinaryIO) -> int:
    """Return the size of a file in bytes; the position is kept."""
    here = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(here)
    return end
