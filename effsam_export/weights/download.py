"""One file over HTTP: resumed where it broke off, and hashed as it arrives.

Only weights are downloaded here, so nothing that arrives is trusted: a `.partial` file outlives a
broken connection, and nothing outlives a wrong hash.
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import requests
import urllib3

from effsam_export.errors import DownloadError, OutputError
from effsam_export.util.files import reason_of

if TYPE_CHECKING:
    from pathlib import Path

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 15.0
CHUNK_BYTES = 64 * 1024
# After a break, tries in a row that get no further than the best one before them.
FRUITLESS_TRIES = 2
PAUSE_S = 1.0

OnBytes = Callable[[int, int | None], None]
"""Called with the bytes that are there, and the bytes there will be, or None if nobody says."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file to download.

    Attributes:
        partial: Where it is written. Bytes already there are taken for its beginning.
        sha256: The pinned hash, 64 hexadecimal digits in lower case, or None where none is known.
        size: Length in bytes, or None where it is not pinned.
        auth: User and password for the server, if it asks for them.
    """

    url: str
    partial: Path
    sha256: str | None
    size: int | None = None
    auth: tuple[str, str] | None = None


class _Broken(Exception):
    """The connection ended before the file did."""


def download(wanted: Wanted, on_progress: OnBytes) -> str:
    """Fills `wanted.partial` with the file, whole and of the pinned hash, and returns its hash.

    Args:
        wanted: The file, its hash, and where to put it (in a directory that exists).
        on_progress: Called as bytes arrive, counted from the beginning of the file.

    Raises:
        DownloadError: The address does not give the file; the message is the reason alone, for
            the caller to put beside the source's name. The partial file is left only when the
            connection broke off.
        OutputError: The file cannot be written. The partial file is gone.
    """
    if wanted.sha256 is None:
        # Nothing would show that kept bytes are another file's.
        discard(wanted.partial)
    digest, resumed = _persist(wanted, on_progress)
    if wanted.sha256 is None:
        return digest
    if digest != wanted.sha256 and resumed:
        # The bytes that were kept may be another file's: only one taken whole condemns the source.
        discard(wanted.partial)
        digest, _ = _persist(wanted, on_progress)
    if digest != wanted.sha256:
        discard(wanted.partial)
        raise DownloadError(wrong_hash(digest, wanted.sha256))
    return digest


def wrong_hash(found: str, pinned: str) -> str:
    """The reason given for a file of another hash."""
    return f"its sha256 is `{found[:12]}...`, and the pinned one is `{pinned[:12]}...`"


def discard(path: Path) -> None:
    """Deletes `path` if it is there.

    Raises:
        OutputError: It cannot be deleted.
    """
    with writing(path):
        path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A block that only touches files; its `OSError` becomes an `OutputError` naming `path`."""
    try:
        yield
    except OSError as error:
        hint = (
            "free some space or make the place writable, or choose another cache with `--cache-dir`"
        )
        raise OutputError(f"cannot write `{path}`: {reason_of(error)}", hint=hint) from error


def why_failed(error: requests.RequestException) -> str:
    """The reason behind an exception of `requests`, without the address: it may hold a password."""
    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code}"
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_TIMEOUT_S:g} s"
    if isinstance(error, requests.Timeout):
        return f"no answer within {READ_TIMEOUT_S:g} s"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not connect to it"
    causes = tuple(_causes(error))
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return "the name of its host cannot be resolved"
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "the connection was refused"
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return "the server's TLS certificate cannot be verified"
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "no TLS connection could be made"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return f"the request failed (`{type(error).__name__}`)"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _persist(wanted: Wanted, on_progress: OnBytes) -> tuple[str, bool]:
    """sha256 of the finished file, and whether some of it may be from an earlier connection."""
    best = length = _length(wanted.partial)
    fruitless = 0
    resumed = False
    while True:
        resumed = resumed or length > 0
        try:
            return _receive(wanted, on_progress), resumed
        except OutputError:
            with suppress(OSError):
                wanted.partial.unlink(missing_ok=True)
            raise
        except _Broken as broken:
            length = _length(wanted.partial)
            fruitless = 0 if length > best else fruitless + 1
            best = max(best, length)
            if fruitless >= FRUITLESS_TRIES:
                raise DownloadError(_broke_at(length, wanted.size)) from broken
            time.sleep(PAUSE_S)


def _broke_at(length: int, size: int | None) -> str:
    whole = "" if size is None else f" of {size:,}"
    kept = ", which are kept for the next try" if length else ""
    return f"the connection broke after {length:,}{whole} bytes{kept}"


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _receive(wanted: Wanted, on_progress: OnBytes) -> str:
    offset = _length(wanted.partial)
    if wanted.size is not None and offset > wanted.size:
        discard(wanted.partial)
        offset = 0
    if offset and offset == wanted.size:
        return _hash_so_far(wanted.partial).hexdigest()
    with _get(wanted, offset) as response:
        if not (offset and _refuses_to_continue(response, offset, wanted.size)):
            return _store(response, wanted, offset, on_progress)
    discard(wanted.partial)
    return _receive(wanted, on_progress)


def _get(wanted: Wanted, offset: int) -> requests.Response:
    # Some servers label a `.tar.gz` as a gzip transfer encoding: the bytes are wanted as they lie.
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    try:
        return requests.get(
            wanted.url, headers=headers, auth=wanted.auth, stream=True, timeout=timeout
        )
    except requests.RequestException as error:
        raise DownloadError(why_failed(error)) from error


def _refuses_to_continue(response: requests.Response, offset: int, size: int | None) -> bool:
    """Whether the server knows of ranges, but not of this one (200 is a server that knows none)."""
    if response.status_code == 416:
        return True
    if response.status_code != 206:
        return False
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != offset:
        return True
    return size is not None and found[2] not in ("*", str(size))


def _store(response: requests.Response, wanted: Wanted, offset: int, on_progress: OnBytes) -> str:
    """Writes the body behind the first `offset` bytes; sha256 of the whole."""
    if response.status_code == 200:
        offset = 0
    elif not (offset and response.status_code == 206):
        answer = f"{response.status_code} {response.reason or ''}".strip().lower()
        raise DownloadError(f"the server answered {answer}")
    announced = response.headers.get("Content-Length", "")
    total = offset + int(announced) if announced.isdecimal() else None
    if None not in (total, wanted.size) and total != wanted.size:
        discard(wanted.partial)
        raise DownloadError(f"the file there has {total:,} bytes instead of {wanted.size:,}")

    done = offset
    with writing(wanted.partial):
        digest = _hash_so_far(wanted.partial) if offset else hashlib.sha256()
        with wanted.partial.open("ab" if offset else "wb") as file:
            on_progress(done, total or wanted.size)
            for chunk in _chunks(response):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if wanted.size is not None and done > wanted.size:
                    break
                on_progress(done, total or wanted.size)
    if total is not None and done < total:
        # urllib3 says so itself only from version 2 on.
        raise _Broken
    if wanted.size is not None and done != wanted.size:
        # Nobody announced a length, so a broken connection cannot be told from another file.
        discard(wanted.partial)
        more = "more than" if done > wanted.size else f"{done:,} bytes instead of"
        raise DownloadError(f"the server sent {more} {wanted.size:,} bytes")
    return digest.hexdigest()


def _chunks(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.raw.stream(CHUNK_BYTES, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _Broken from error


def _hash_so_far(path: Path) -> hashlib._Hash:
    digest = hashlib.sha256()
    with writing(path), path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest
