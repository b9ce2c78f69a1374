"""`--dry-run` meets what the export would meet, with its exit code, and changes nothing."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler
from typing import TYPE_CHECKING, NamedTuple

import pytest

from effsam_export import backends, cli, models
from effsam_export.cli import dry_run
from effsam_export.models.edge_sam import EDGE_SAM
from effsam_export.models.export_costs import ExportCost, cost_of
from effsam_export.spec.model import UrlSource, WeightFile
from effsam_export.weights import fetch
from tests.local_server import serving, without_proxy
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


BODY = b"weights"


@pytest.fixture
def effsam(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Ended]:
    """Run a command in an empty directory with an empty cache; nothing may be written."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("EFFSAM_CACHE_DIR", str(tmp_path / "cache"))
    # Otherwise pip is asked for it, which takes a second.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    without_proxy(monkeypatch)

    def run(*arguments: object) -> Ended:
        before = sorted(tmp_path.rglob("*"))
        monkeypatch.setattr(sys, "argv", ["effsam", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert sorted(tmp_path.rglob("*")) == before
        out, err = capsys.readouterr()
        return Ended(int(ended.value.code or 0), out, err)

    return run


def registered(monkeypatch: pytest.MonkeyPatch, spec: ModelSpec) -> None:
    """Put a model into the table under its name."""
    monkeypatch.setattr(sys.modules[__name__], "SPEC", spec, raising=False)
    monkeypatch.setitem(models.MODELS, spec.name, (__name__, "SPEC"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The address of a server with one file of the size of `BODY`."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "weights.pt").write_bytes(BODY)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with serving(partial(Handler, directory=str(folder))) as url:
        yield url


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


def with_weights(*urls: str, size: int | None = len(BODY)) -> ModelSpec:
    """The tiny model with an official file at some addresses."""
    sources = tuple(UrlSource(url=f"{url}/weights.pt") for url in urls)
    weights = WeightFile(file_name="weights.pt", sha256="0" * 64, size=size, sources=sources)
    return replace(TINY_SAM, weights=weights)


PLAN = ("export", "tiny-sam", "-t", "onnx", "--dry-run")


def test_a_cached_checkpoint(
    effsam: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, official_in_cache: Path
) -> None:
    ended = effsam("export", "mobile-sam", "-t", "openvino", "--fp16", "--dry-run", "--json")
    assert ended.code == 0
    document = json.loads(ended.out)
    plan = document["plan"]
    assert plan["precision"] == "fp16"
    assert plan["output"] == "mobile-sam-openvino-fp16"
    assert plan["gates"]["mask_iou"] == 0.99
    assert plan["checkpoint"]["path"] == str(official_in_cache)
    assert document["problems"] == []
    cost = cost_of("mobile-sam", "openvino", "fp16")
    assert document["expected"]["seconds"] == cost.seconds
    assert document["expected"]["memory_mb"] == cost.memory_mb
    ended = effsam("export", "mobile-sam", "-t", "openvino", "--dry-run")
    assert "target_options.device" in ended.out
    assert "expected time " in ended.out
    assert "expected memory " in ended.out
    assert "expected size " in ended.out


@pytest.fixture
def official_in_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A path that the cache gives for every official checkpoint."""
    from effsam_export.spec.stages import Checkpoint

    path = tmp_path / "mobile_sam.pt"
    found = Checkpoint(path=path, sha256="0" * 64, official=True)
    monkeypatch.setattr(fetch, "cached", lambda *_, **__: found)
    return path


def test_a_file_that_could_be_downloaded(
    effsam: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, site: str
) -> None:
    registered(monkeypatch, with_weights(closed_port(), site))
    ended = effsam(*PLAN, "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["plan"]["checkpoint"] == {
        "path": None,
        "source": f"`{site}/weights.pt`",
        "download_bytes": len(BODY),
    }
    assert f"download of 0.0 MB from `{site}/weights.pt`" in effsam(*PLAN).out


def test_a_host_that_is_not_reached(
    effsam: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, site: str
) -> None:
    """The error is the one that the export ends with."""
    closed = closed_port()
    for spec, reason in (
        (with_weights(closed), "the connection was refused"),
        (with_weights(f"{site}/no"), "the server answered 404 file not found"),
        (with_weights(site, size=9), "the file there has 7 bytes instead of 9"),
    ):
        registered(monkeypatch, spec)
        planned = effsam(*PLAN)
        assert planned.code == 2
        assert f"`: {reason}" in planned.err
        assert planned.err.startswith("error: no source gives `weights.pt` of `tiny-sam`:")
        assert "hint: download it yourself" in planned.err
        assert "checkpoint" in planned.out


def test_the_real_run_ends_with_the_same_error(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    effsam: Callable[..., Ended],
    tmp_path: Path,
) -> None:
    registered(monkeypatch, with_weights(closed_port()))
    planned = effsam(*PLAN)
    monkeypatch.setattr(sys, "argv", ["effsam", *(a for a in PLAN if a != "--dry-run")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == planned.code == 2
    assert capsys.readouterr().err == planned.err


def test_no_published_weights(effsam: Callable[..., Ended], tiny: None) -> None:
    ended = effsam(*PLAN)
    assert ended.code == 2
    assert ended.err == (
        "error: `tiny-sam` has no published weights\n"
        "\nhint: give your own file with --checkpoint FILE\n"
    )


def test_a_licence_that_was_not_accepted(
    effsam: Callable[..., Ended], official_in_cache: Path
) -> None:
    plan = ("export", EDGE_SAM.name, "-t", "onnx", "--dry-run")
    ended = effsam(*plan)
    assert ended.code == 2
    assert "needs your consent" in ended.err
    assert "hint: read " in ended.err
    assert effsam(*plan, "--accept-license").code == 0
    # Nothing was stored: the next one is asked again.
    assert effsam(*plan).code == 2


@pytest.mark.backend
def test_an_output_that_exists(
    effsam: Callable[..., Ended], official_in_cache: Path, bundle: Path
) -> None:
    plan = ("export", "mobile-sam", "-t", "onnx", "--dry-run", "-o", bundle)
    ended = effsam(*plan)
    assert ended.code == 2
    assert ended.err.startswith(f"error: bundle `{bundle}` exists already\n")
    assert effsam(*plan, "--force").code == 0


def test_a_missing_package(
    effsam: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, official_in_cache: Path
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None if name == "openvino" else name)
    ended = effsam("export", "mobile-sam", "-t", "openvino", "--dry-run")
    assert ended.code == 3
    assert ended.err.startswith("error: backend `openvino` needs a package")


def test_every_problem_is_named_and_the_first_gives_the_code(
    effsam: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tiny: None, tmp_path: Path
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None if name == "torch" else name)
    taken = tmp_path / "taken"
    taken.write_text("mine")
    ended = effsam(*PLAN, "-o", taken, "--json")
    assert ended.code == 3
    assert ended.err.splitlines() == [
        "error: the export would fail for 3 reasons:",
        "  1. tracing a model needs a package that is not installed: `torch`",
        '     hint: pip install -e ".[torch]" in the checkout of effsam-export',
        f"  2. `{taken}` exists and is not a directory",
        "     hint: choose another --output",
        "  3. `tiny-sam` has no published weights",
        "     hint: give your own file with --checkpoint FILE",
    ]
    problems = json.loads(ended.out)["problems"]
    assert [p["exit_code"] for p in problems] == [3, 2, 2]
    assert problems[2]["message"] == "`tiny-sam` has no published weights"


@pytest.mark.backend
def test_a_file_of_another_model(
    effsam: Callable[..., Ended], tiny: None, tiny_checkpoint: Checkpoint, small: None
) -> None:
    own = ("--dry-run", "--checkpoint", tiny_checkpoint.path)
    ended = effsam("export", "tiny-sam", "-t", "onnx", *own)
    assert ended.code == 0, ended.err
    assert str(tiny_checkpoint.path) in ended.out
    ended = effsam("export", "mobile-sam", "-t", "onnx", *own)
    assert ended.code == 2
    assert "not one of `mobile-sam`" in ended.err or "checkpoint" in ended.err


def test_costs_in_words() -> None:
    shown = dry_run.words(ExportCost(seconds=27, memory_mb=1500, size_mb=45))
    assert shown["expected time"] == "about 27 s"
    assert shown["expected memory"] == "about 1.5 GB"
    assert shown["expected size"] == "about 45 MB of graphs"
    assert dry_run.words(ExportCost(seconds=290))["expected time"] == "about 5 min"
    assert dry_run.words(ExportCost())["expected memory"].startswith("not measured")


def test_too_little_memory_is_a_warning(
    effsam: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, official_in_cache: Path
) -> None:
    plan = ("export", "sam-vit-b", "-t", "onnx", "--dry-run")
    monkeypatch.setattr(dry_run, "free_memory_mb", lambda: 1000.0)
    ended = effsam(*plan)
    assert ended.code == 0
    assert "warning: about 8.2 GB of memory are expected, and 1.0 GB are free" in ended.err
    monkeypatch.setattr(dry_run, "free_memory_mb", lambda: 100_000.0)
    assert "of memory" not in effsam(*plan).err
