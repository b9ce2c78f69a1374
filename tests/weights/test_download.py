"""Downloads from a server in this process that behaves as real ones do on a bad day."""

from __future__ import annotations

import errno
import hashlib
import io
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from effsam_export.errors import DownloadError, OutputError
from effsam_export.weights import download as module
from effsam_export.weights.download import DownloadRequest, download
from tests.local_server import serving, without_proxy

BODY = bytes(range(256)) * 4096  # 1 MiB: several chunks, and more than the sockets buffer
SHA256 = hashlib.sha256(BODY).hexdigest()

Behaviour = Callable[[BaseHTTPRequestHandler, int], None]
"""Answers one request, given the offset it asks for (0 without a Range)."""


@dataclass
class Server:
    """A file server, the behaviours its next requests get (the last for good), what was asked."""

    url: str = ""
    behaviours: list[Behaviour] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    encodings: list[str | None] = field(default_factory=list)


@pytest.fixture(autouse=True)
def _no_proxy_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    without_proxy(monkeypatch)
    monkeypatch.setattr(module, "PAUSE_S", 0.0)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            offset = int(asked[1]) if asked else 0
            state.offsets.append(offset)
            state.encodings.append(self.headers.get("Accept-Encoding"))
            behave = state.behaviours.pop(0) if len(state.behaviours) > 1 else state.behaviours[0]
            with suppress(OSError):  # the client may hang up
                behave(self, offset)

        def log_message(self, *args: object) -> None:
            pass

    with serving(Handler) as url:
        state.url = f"{url}/weights.pt"
        yield state


def serves(body: bytes = BODY, *, upto: int | None = None, ranges: bool = True) -> Behaviour:
    """A server of `body` that closes the connection at byte `upto`."""

    def behave(request: BaseHTTPRequestHandler, offset: int) -> None:
        start = offset if ranges else 0
        if start and start >= len(body):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(body)}")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        request.wfile.write(body[start:upto])

    return behave


def answers(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    def behave(request: BaseHTTPRequestHandler, offset: int) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return behave


def silent(length: int | None) -> Behaviour:
    """Says nothing at all, or falls silent after the headers."""

    def behave(request: BaseHTTPRequestHandler, offset: int) -> None:
        if length is not None:
            request.send_response(200)
            request.send_header("Content-Length", str(length))
            request.end_headers()
            request.wfile.write(BODY[:1000])
            request.wfile.flush()
        request.connection.recv(1)  # until the client hangs up

    return behave


def download_request(
    server: Server, folder: Path, *, size: int | None = len(BODY)
) -> DownloadRequest:
    return DownloadRequest(url=server.url, partial=folder / "w.partial", sha256=SHA256, size=size)


def ignore(done: int, total: int | None) -> None:
    """No progress wanted."""


# ------------------------------------------------------------------ the file arrives


@pytest.mark.parametrize("size", [len(BODY), None])
def test_gives_the_file_and_counts_its_bytes(
    server: Server, tmp_path: Path, size: int | None
) -> None:
    server.behaviours = [serves()]
    seen: list[tuple[int, int | None]] = []

    download(
        download_request(server, tmp_path, size=size),
        lambda done, total: seen.append((done, total)),
    )

    assert (tmp_path / "w.partial").read_bytes() == BODY
    assert seen[0] == (0, len(BODY))
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert server.encodings == ["identity"]


def test_takes_a_body_without_length(server: Server, tmp_path: Path) -> None:
    server.behaviours = [answers(200, BODY)]
    seen: list[int | None] = []

    download(download_request(server, tmp_path, size=None), lambda _done, total: seen.append(total))

    assert (tmp_path / "w.partial").read_bytes() == BODY
    assert set(seen) == {None}


def test_takes_the_bytes_as_they_lie_whatever_encoding_is_claimed(
    server: Server, tmp_path: Path
) -> None:
    server.behaviours = [answers(200, BODY, Content_Encoding="gzip", Content_Length=str(len(BODY)))]
    download(download_request(server, tmp_path), ignore)
    assert (tmp_path / "w.partial").read_bytes() == BODY


# ------------------------------------------------------------------ it resumes


def test_goes_on_where_the_connection_broke(server: Server, tmp_path: Path) -> None:
    server.behaviours = [serves(upto=400_000), serves(upto=700_000), serves()]
    seen: list[int] = []

    download(download_request(server, tmp_path), lambda done, _total: seen.append(done))

    assert (tmp_path / "w.partial").read_bytes() == BODY
    assert server.offsets == [0, 400_000, 700_000]
    assert seen[-1] == len(BODY)


def test_goes_on_where_an_earlier_run_broke(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.partial").write_bytes(BODY[:300_000])
    server.behaviours = [serves()]
    seen: list[int] = []

    download(download_request(server, tmp_path), lambda done, _total: seen.append(done))

    assert (tmp_path / "w.partial").read_bytes() == BODY
    assert server.offsets == [300_000]
    assert seen[0] == 300_000


def test_starts_over_at_a_server_without_ranges(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.partial").write_bytes(BODY[:300_000])
    server.behaviours = [serves(ranges=False)]

    download(download_request(server, tmp_path), ignore)

    assert (tmp_path / "w.partial").read_bytes() == BODY
    assert server.offsets == [300_000]


@pytest.mark.parametrize(
    "refusal",
    [
        answers(416),
        answers(206, b"x", Content_Range=f"bytes 0-0/{len(BODY)}"),
        answers(206, b"x", Content_Range="bytes 300000-300000/300001"),
        answers(206, b"x", Content_Range="nonsense"),
        answers(206, b"x"),
    ],
    ids=["416", "another start", "another total", "unreadable range", "no range"],
)
def test_starts_over_when_the_range_is_not_given(
    server: Server, tmp_path: Path, refusal: Behaviour
) -> None:
    (tmp_path / "w.partial").write_bytes(BODY[:300_000])
    server.behaviours = [refusal, serves()]

    download(download_request(server, tmp_path), ignore)

    assert (tmp_path / "w.partial").read_bytes() == BODY
    assert server.offsets == [300_000, 0]


def test_starts_over_when_the_kept_bytes_were_of_another_file(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "w.partial").write_bytes(b"#" * 300_000)
    server.behaviours = [serves()]

    download(download_request(server, tmp_path), ignore)

    assert (tmp_path / "w.partial").read_bytes() == BODY
    assert server.offsets == [300_000, 0]


@pytest.mark.parametrize("kept", [BODY, BODY + b"more"], ids=["whole", "too long"])
def test_kept_bytes_that_need_no_range(server: Server, tmp_path: Path, kept: bytes) -> None:
    (tmp_path / "w.partial").write_bytes(kept)
    server.behaviours = [serves()]

    download(download_request(server, tmp_path), ignore)

    assert (tmp_path / "w.partial").read_bytes() == BODY
    assert server.offsets == ([] if kept == BODY else [0])


# ------------------------------------------------------------------ it fails, and says why


@pytest.mark.parametrize("ranges", [True, False])
def test_gives_up_on_a_body_that_is_always_truncated(
    server: Server, tmp_path: Path, ranges: bool
) -> None:
    server.behaviours = [serves(upto=500_000, ranges=ranges)]

    with pytest.raises(DownloadError, match=r"broke after 500,000 of 1,048,576 bytes"):
        download(download_request(server, tmp_path), ignore)

    # What came is right as far as it goes: the next run may go on from it.
    assert (tmp_path / "w.partial").read_bytes() == BODY[:500_000]
    assert len(server.offsets) == 1 + module.MAX_TRIES_WITHOUT_PROGRESS


def test_a_server_that_falls_silent_midway(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_TIMEOUT_S", 2.0)
    monkeypatch.setattr(module, "MAX_TRIES_WITHOUT_PROGRESS", 0)
    server.behaviours = [silent(len(BODY))]
    with pytest.raises(DownloadError, match="the connection broke after"):
        download(download_request(server, tmp_path), ignore)


def test_a_server_that_never_answers(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_TIMEOUT_S", 0.1)
    server.behaviours = [silent(None)]
    with pytest.raises(DownloadError, match=r"^no answer within 0.1 s$"):
        download(download_request(server, tmp_path), ignore)
    assert len(server.offsets) == 1


@pytest.mark.parametrize("kept", [b"", BODY[:300_000]], ids=["fresh", "resumed"])
def test_wrong_bytes_are_refused_and_deleted(server: Server, tmp_path: Path, kept: bytes) -> None:
    if kept:
        (tmp_path / "w.partial").write_bytes(kept)
    wrong = BODY[:-1] + b"!"
    server.behaviours = [serves(wrong)]

    with pytest.raises(DownloadError) as caught:
        download(download_request(server, tmp_path), ignore)

    assert hashlib.sha256(wrong).hexdigest()[:12] in caught.value.message
    assert SHA256[:12] in caught.value.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (answers(404), "the server answered 404 not found"),
        (answers(503), "the server answered 503 service unavailable"),
        (answers(206, BODY), "the server answered 206 partial content"),
        (serves(b"<html>sign in</html>"), "has 20 bytes instead of 1,048,576"),
        (answers(200, BODY[:10]), "sent 10 bytes instead of 1,048,576 bytes"),
        (answers(200, BODY + b"!"), "sent more than 1,048,576 bytes"),
    ],
)
def test_another_answer_is_refused_and_leaves_nothing(
    server: Server, tmp_path: Path, behaviour: Behaviour, reason: str
) -> None:
    server.behaviours = [behaviour]
    with pytest.raises(DownloadError, match=reason):
        download(download_request(server, tmp_path), ignore)
    assert list(tmp_path.iterdir()) == []
    assert len(server.offsets) == 1


def test_a_closed_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    server = Server(url=f"http://127.0.0.1:{port}/weights.pt")
    with pytest.raises(DownloadError, match="the connection was refused"):
        download(download_request(server, tmp_path), ignore)


def test_a_host_that_cannot_be_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unresolvable(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unresolvable)
    with pytest.raises(DownloadError, match="the name of its host cannot be resolved"):
        download(download_request(Server(url="http://nothing.invalid/w.pt"), tmp_path), ignore)


def test_a_host_that_takes_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def unreachable(address: object, timeout: object, *args: object, **kwargs: object) -> None:
        asked.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr("urllib3.util.connection.create_connection", unreachable)
    with pytest.raises(DownloadError, match="no connection within 5 s"):
        download(download_request(Server(url="http://127.0.0.1:9/w.pt"), tmp_path), ignore)
    assert asked == [5.0]


@pytest.mark.parametrize("url", ["file:///weights.pt", "weights.pt", "http://[::1/weights.pt"])
def test_an_address_that_is_none(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="the request failed"):
        download(download_request(Server(url=url), tmp_path), ignore)


def test_a_plain_server_where_tls_was_expected(server: Server, tmp_path: Path) -> None:
    server.behaviours = [serves()]
    secure = Server(url=server.url.replace("http:", "https:"))
    with pytest.raises(DownloadError, match="no TLS connection"):
        download(download_request(secure, tmp_path), ignore)


# ------------------------------------------------------------------ the disk


def test_a_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.FileIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda path, mode="r": Full(str(path), mode))
    server.behaviours = [serves()]

    with pytest.raises(OutputError, match=r"cannot write `.*w\.partial`: no space left") as caught:
        download(download_request(server, tmp_path), ignore)

    assert caught.value.hint is not None
    assert "free some space" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    server.behaviours = [serves()]
    with pytest.raises(OutputError, match="no such file or directory"):
        download(download_request(server, tmp_path / "missing"), ignore)
