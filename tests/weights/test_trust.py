"""Consent to licences, and hashes that are trusted on the first download."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest

from effsam_export import models
from effsam_export.errors import DownloadError, UsageError
from effsam_export.spec.model import UrlSource, WeightFile
from effsam_export.weights import consent, fetch, lock
from tests.local_server import serving, without_proxy

if TYPE_CHECKING:
    from pathlib import Path

EDGE = models.get("edge-sam")


def test_a_free_licence_needs_no_consent(tmp_path: Path) -> None:
    consent.require(models.get("mobile-sam"), accepted=False, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["edge-sam", "edge-sam-3x", "fast-sam-s", "fast-sam-x", "sam-lightening"]
)
def test_a_restricted_one_does(name: str, tmp_path: Path) -> None:
    spec = models.get(name)
    with pytest.raises(UsageError) as refused:
        consent.require(spec, accepted=False, cache_dir=tmp_path)
    assert spec.licence.restricted in refused.value.message
    assert "--accept-license" in str(refused.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_consent_is_required_once(tmp_path: Path) -> None:
    consent.require(EDGE, accepted=True, cache_dir=tmp_path / "cache")
    consent.require(EDGE, accepted=False, cache_dir=tmp_path / "cache")
    with pytest.raises(UsageError):
        consent.require(models.get("fast-sam-s"), accepted=False, cache_dir=tmp_path / "cache")


def test_another_licence_needs_consent_again(tmp_path: Path) -> None:
    consent.require(EDGE, accepted=True, cache_dir=tmp_path)
    changed = replace(EDGE, licence=replace(EDGE.licence, spdx="LicenseRef-Other"))
    with pytest.raises(UsageError):
        consent.require(changed, accepted=False, cache_dir=tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"edge-sam": 1}', "\x00"])
def test_a_broken_record_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / consent.FILE_NAME).write_text(content, "utf-8")
    assert not consent.is_accepted(EDGE, tmp_path)
    consent.require(EDGE, accepted=True, cache_dir=tmp_path)
    assert consent.is_accepted(EDGE, tmp_path)


# ------------------------------------------------------------------ trust on first use

UNPINNED = WeightFile(file_name="w.pt", sha256=None, size=None, sources=())


def test_a_pinned_file_needs_no_lock(tmp_path: Path) -> None:
    pinned = replace(UNPINNED, sha256="a" * 64, size=3)
    assert lock.expected_hash(pinned, tmp_path) == lock.FileHash(sha256="a" * 64, size=3)


def test_what_was_trusted_is_known(tmp_path: Path) -> None:
    assert lock.expected_hash(UNPINNED, tmp_path) is None
    lock.trust(UNPINNED, "b" * 64, 7, "some-model", tmp_path)
    assert lock.expected_hash(UNPINNED, tmp_path) == lock.FileHash(sha256="b" * 64, size=7)
    assert json.loads((tmp_path / lock.FILE_NAME).read_text())["w.pt"]["model"] == "some-model"


@pytest.mark.parametrize("content", ["{", "[1]", '{"w.pt": {"sha256": "b"}}', '{"w.pt": 3}'])
def test_a_broken_lock_is_not_an_empty_one(tmp_path: Path, content: str) -> None:
    (tmp_path / lock.FILE_NAME).write_text(content, "utf-8")
    with pytest.raises(DownloadError, match="cannot be read"):
        lock.expected_hash(UNPINNED, tmp_path)


def test_no_fetch_without_a_source_names_no_hash(tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as refused:
        fetch.fetch(UNPINNED, model="m", cache_dir=tmp_path)
    assert "None" not in f"{refused.value.message}{refused.value.hint}"


def test_the_first_file_is_trusted_and_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_proxy(monkeypatch)
    served, cache = tmp_path / "served", tmp_path / "cache"
    served.mkdir()
    (served / "w.pt").write_bytes(b"first")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(served))
    with serving(handler) as address:
        file = replace(UNPINNED, sources=(UrlSource(url=f"{address}/w.pt"),))
        found = fetch.fetch(file, model="m", cache_dir=cache)
        assert found.sha256 == hashlib.sha256(b"first").hexdigest()
        assert not found.official
        assert fetch.cached(file, cache_dir=cache) == found
        found.path.unlink()
        (served / "w.pt").write_bytes(b"other")
        with pytest.raises(DownloadError) as refused:
            fetch.fetch(file, model="m", cache_dir=cache)
        assert "pinned one" in refused.value.message
        (served / "w.pt").write_bytes(b"first")
        assert fetch.fetch(file, model="m", cache_dir=cache).sha256 == found.sha256
