"""Download one file over HTTP, with resumption and a hash computed on the fly.

A `.partial` file is kept after a broken connection, and deleted if the hash is wrong.
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
from pathlib import Path

import requests
import urllib3

from effsam_export.errors import DownloadError, OutputError
from effsam_export.util.reasons import reason_of

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 15.0
CHUNK_BYTES = 64 * 1024
# Consecutive attempts without progress before the download fails.
MAX_TRIES_WITHOUT_PROGRESS = 2
PAUSE_S = 1.0

OnBytes = Callable[[int, int | None], None]
"""Called with the bytes received and the total bytes, or None if unknown."""


@dataclass(frozen=True, kw_only=True)
class DownloadRequest:
    """A file to download, and where to write it.

    Attributes:
        partial: Path to write. Bytes already there are taken as the beginning of the file.
        sha256: The pinned hash, 64 lower-case hexadecimal digits, or None if unknown.
        size: Size in bytes, or None if not pinned.
        auth: User and password for the server, if it requires them.
    """

    url: str
    partial: Path
    sha256: str | None
    size: int | None = None
    auth: tuple[str, str] | None = None


class _Broken(Exception):
    """The connection ended before the file did."""


def download(request: DownloadRequest, on_progress: OnBytes) -> str:
    """Download a file to `request.partial`, check its hash, and return the hash.

    Args:
        request: The file, its hash, and a path in an existing directory.
        on_progress: Called as bytes arrive; counts from the beginning of the file.

    Raises:
        DownloadError: The address does not provide the file. The message has only the reason; the
            caller adds the source. The partial file is kept only after a broken connection.
        OutputError: The file cannot be written. The partial file is deleted.
    """
    if request.sha256 is None:
        # Without a hash, bytes of another file could not be detected.
        discard(request.partial)
    digest, resumed = _persist(request, on_progress)
    if request.sha256 is None:
        return digest
    if digest != request.sha256 and resumed:
        # Kept bytes may be of another file: the source is wrong only if a full download fails.
        discard(request.partial)
        digest, _ = _persist(request, on_progress)
    if digest != request.sha256:
        discard(request.partial)
        raise DownloadError(wrong_hash(digest, request.sha256))
    return digest


def probe(url: str, size: int | None, auth: tuple[str, str] | None = None) -> None:
    """Check that an address provides a file, without downloading it.

    Args:
        url: The address.
        size: Expected size in bytes, or None if unknown.
        auth: User and password for the server, if it requires them.

    Raises:
        DownloadError: The server cannot be reached, or has no file of this size there.
    """
    request = DownloadRequest(url=url, partial=Path(), sha256=None, size=size, auth=auth)
    with _get(request, 0) as response:
        if response.status_code != 200:
            raise DownloadError(_refusal(response))
        announced = response.headers.get("Content-Length", "")
        if size is not None and announced.isdecimal() and int(announced) != size:
            raise DownloadError(_another_size(int(announced), size))


def _refusal(response: requests.Response) -> str:
    answer = f"{response.status_code} {response.reason or ''}".strip().lower()
    return f"the server answered {answer}"


def _another_size(announced: int, expected: int) -> str:
    return f"the file there has {announced:,} bytes instead of {expected:,}"


def wrong_hash(found: str, pinned: str) -> str:
    """Return the reason for rejecting a file with another hash."""
    return f"its sha256 is `{found[:12]}...`, and the pinned one is `{pinned[:12]}...`"


def discard(path: Path) -> None:
    """Delete `path` if it exists.

    Raises:
        OutputError: It cannot be deleted.
    """
    with writing(path):
        path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into an `OutputError` with `path`."""
    try:
        yield
    except OSError as error:
        hint = (
            "free some space or make the path writable, or choose another cache with `--cache-dir`"
        )
        raise OutputError(f"cannot write `{path}`: {reason_of(error)}", hint=hint) from error


def why_failed(error: requests.RequestException) -> str:
    """Return the reason of a `requests` exception, without the address (it may have a password)."""
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


def _persist(request: DownloadRequest, on_progress: OnBytes) -> tuple[str, bool]:
    """Return the sha256 of the complete file, and whether the download was resumed."""
    best = length = _length(request.partial)
    without_progress = 0
    resumed = False
    while True:
        resumed = resumed or length > 0
        try:
            return _receive(request, on_progress), resumed
        except OutputError:
            with suppress(OSError):
                request.partial.unlink(missing_ok=True)
            raise
        except _Broken as broken:
            length = _length(request.partial)
            without_progress = 0 if length > best else without_progress + 1
            best = max(best, length)
            if without_progress >= MAX_TRIES_WITHOUT_PROGRESS:
                raise DownloadError(_broke_at(length, request.size)) from broken
            time.sleep(PAUSE_S)


def _broke_at(length: int, size: int | None) -> str:
    whole = "" if size is None else f" of {size:,}"
    kept = ", which are kept for the next try" if length else ""
    return f"the connection broke after {length:,}{whole} bytes{kept}"


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _receive(request: DownloadRequest, on_progress: OnBytes) -> str:
    offset = _length(request.partial)
    if request.size is not None and offset > request.size:
        discard(request.partial)
        offset = 0
    if offset and offset == request.size:
        return _hash_so_far(request.partial).hexdigest()
    with _get(request, offset) as response:
        if not (offset and _refuses_to_continue(response, offset, request.size)):
            return _store(response, request, offset, on_progress)
    discard(request.partial)
    return _receive(request, on_progress)


def _get(request: DownloadRequest, offset: int) -> requests.Response:
    # Some servers declare a `.tar.gz` as gzip-encoded; `identity` prevents decompression.
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    try:
        return requests.get(
            request.url, headers=headers, auth=request.auth, stream=True, timeout=timeout
        )
    except requests.RequestException as error:
        raise DownloadError(why_failed(error)) from error


def _refuses_to_continue(response: requests.Response, offset: int, size: int | None) -> bool:
    """Return whether the server supports ranges but not this one (200 means no support)."""
    if response.status_code == 416:
        return True
    if response.status_code != 206:
        return False
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != offset:
        return True
    return size is not None and found[2] not in ("*", str(size))


def _store(
    response: requests.Response, request: DownloadRequest, offset: int, on_progress: OnBytes
) -> str:
    """Write the body after the first `offset` bytes, and return the sha256 of the whole file."""
    if response.status_code == 200:
        offset = 0
    elif not (offset and response.status_code == 206):
        raise DownloadError(_refusal(response))
    announced = response.headers.get("Content-Length", "")
    total = offset + int(announced) if announced.isdecimal() else None
    if total is not None and request.size is not None and total != request.size:
        discard(request.partial)
        raise DownloadError(_another_size(total, request.size))

    done = offset
    with writing(request.partial):
        digest = _hash_so_far(request.partial) if offset else hashlib.sha256()
        with request.partial.open("ab" if offset else "wb") as file:
            on_progress(done, total or request.size)
            for chunk in _chunks(response):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if request.size is not None and done > request.size:
                    break
                on_progress(done, total or request.size)
    if total is not None and done < total:
        # urllib3 raises an error itself only from version 2 on.
        raise _Broken
    if request.size is not None and done != request.size:
        # Without a declared length, a broken connection looks like another file.
        discard(request.partial)
        more = "more than" if done > request.size else f"{done:,} bytes instead of"
        raise DownloadError(f"the server sent {more} {request.size:,} bytes")
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
