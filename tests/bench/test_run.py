"""A benchmark of real bundles of tiny models, each in its own process."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from effsam_export import backends, cli
from effsam_export.bench import process, run
from effsam_export.bench.run import Settings, bench
from effsam_export.bench.subjects import subjects
from effsam_export.bench.tasks import Work
from effsam_export.bundle import archive
from effsam_export.errors import BundleError, CheckFailed, ImageError
from tests.bundle import fake
from tests.package.test_docs import key_paths

if TYPE_CHECKING:
    from effsam_export.bench.process import Answer
    from effsam_export.util.progress import StageEvent

pytestmark = pytest.mark.backend
PACKED = Path(__file__).resolve().parents[1] / "bundle" / "v3"


@pytest.fixture(autouse=True)
def tiny_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes know the tiny models, and leave out the 64 prompts, which take seconds."""
    monkeypatch.setattr(process, "OTHER_SIDE", "from tests.bench.child import main; main()")
    monkeypatch.setattr(run, "TASKS", run.TASKS[:-1])


def unpacked(name: str, folder: Path) -> Path:
    """A bundle of the repository."""
    with tarfile.open(PACKED / f"{name}.tar.xz") as file:
        for member in file.getmembers():
            content = file.extractfile(member)
            if content is not None:
                (folder / member.name).parent.mkdir(parents=True, exist_ok=True)
                (folder / member.name).write_bytes(content.read())
    return folder / name


def quick(photo: Path, **changes: Any) -> Settings:  # noqa: ANN401 - settings of any type
    return Settings(image=photo, settle_s=0.0, **{"warm_up": 0, "repeats": 2, **changes})


def test_bundles_side_by_side(
    bundle: Path,
    photo: Path,
    tmp_path: Path,
    tiny_models: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A packed one, one that finds instances, and one whose runtime is not here."""
    monkeypatch.setattr("platform.system", lambda: "Linux")
    packed = tmp_path / f"tiny{archive.SUFFIX}"
    archive.pack(bundle, packed)
    instances = unpacked("tiny-instances-onnx", tmp_path)
    coreml = unpacked("tiny-sam-coreml", tmp_path)
    calls: list[tuple[str, str]] = []
    call = process.Worker.call

    def recorded(worker: process.Worker, name: str, *arguments: int) -> Answer:
        calls.append((str(id(worker)), " ".join([name, *map(str, arguments)])))
        return call(worker, name, *arguments)

    monkeypatch.setattr(process.Worker, "call", recorded)
    steps: list[StageEvent] = []
    found = bench([packed, instances, coreml], quick(photo, threads=1), steps.append)
    one, two, three = found.bundles
    assert set(one.latencies) == {*("encoder", "first_mask", "prompts_1", "prompts_8")}
    assert one.latencies["first_mask"].p50_s > one.latencies["encoder"].p50_s > 0
    assert one.latencies["prompts_8"].p50_s > one.latencies["prompts_1"].p50_s
    assert set(two.latencies) == {"encoder", "first_mask"}
    assert (one.subject.prompts_per_call, two.subject.prompts_per_call) == (None, 0)
    assert (one.subject.threads, two.subject.threads) == (1, 1)
    assert one.subject.bytes > 10**6
    assert "an evaluator of the saved ML program" in three.subject.obstacle
    assert not three.latencies
    assert three.subject.bytes > 10**5
    if sys.platform == "linux":
        # No process has the memory of this one, in which torch is loaded.
        assert one.one_prompt_bytes is not None
        assert one.peak_bytes is not None
        assert 5 * 10**7 < one.one_prompt_bytes < one.peak_bytes
    # First masks of both, then the decoder of one, in two rounds.
    rounds = ["open", "open", *(["first_mask"] * 2 + ["decode 1", "decode 8"]) * 2]
    assert [name for _, name in calls] == rounds
    assert len({worker for worker, name in calls if name == "first_mask"}) == 2
    assert [(e.done, e.total) for e in steps if e.kind == "advanced"][-1] == (8, 8)
    assert (steps[-1].kind, steps[-1].detail) == ("finished", "3 bundles")
    assert not found.failures
    assert key_paths(found.document())


def test_a_bundle_that_fails_does_not_stop_the_others(
    bundle: Path, photo: Path, tmp_path: Path, tiny_models: None
) -> None:
    broken = Path(shutil.copytree(bundle, tmp_path / "broken"))
    (broken / "encoder.onnx").write_bytes(b"not a graph")
    found = bench([broken, bundle], quick(photo, repeats=1))
    bad, good = found.bundles
    assert "`encoder.onnx` has 11 bytes, want" in bad.failure
    assert not bad.latencies
    assert good.latencies
    assert len(found.failures) == 1


def test_a_process_that_dies_is_the_failure_of_its_bundle(
    bundle: Path, photo: Path, tiny_models: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = {
        "import os; os.kill(os.getpid(), 9)": "killed, most likely because memory ran out",
        "import sys; sys.exit('no such thing')": "ended with code 1: no such thing",
        "import os; os.abort()": "crashed with signal 6",
    }
    for code, message in ends.items():
        monkeypatch.setattr(process, "OTHER_SIDE", code)
        (failed,) = bench([bundle], quick(photo)).bundles
        assert message in failed.failure


def test_a_missing_runtime_is_an_obstacle(
    bundle: Path, photo: Path, tiny_models: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "available", lambda name: False)
    (found,) = bench([bundle], quick(photo)).bundles
    assert found.subject.obstacle == (
        "backend `onnx` needs a package that is not installed: `onnxruntime`"
    )


def test_everything_is_checked_before_a_process_is_started(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "started", None)
    (tmp_path / "file.effsam.zip").write_bytes(b"PK")
    with pytest.raises(BundleError, match="2 of 2 bundles cannot be read") as failed:
        bench([tmp_path / "nowhere", tmp_path / "file.effsam.zip"], quick(photo))
    assert "nowhere` does not exist" in failed.value.message
    assert "is not a complete zip file" in failed.value.message
    with pytest.raises(BundleError, match="nowhere` does not exist"):
        bench([tmp_path / "nowhere"], quick(photo))
    with pytest.raises(ImageError):
        bench([tmp_path], quick(tmp_path / "no.png"))


def test_fixed_prompts_take_several_calls(bundle: Path, photo: Path, tiny_models: None) -> None:
    counted: list[int] = []

    class Counting:
        def __init__(self, decoder: Any) -> None:  # noqa: ANN401 - a session
            self._decoder = decoder

        def run(self, feeds: Any) -> Any:  # noqa: ANN401 - tensors
            counted.append(len(feeds["point_coords"]))
            return self._decoder.run(feeds)

    work = Work(bundle, photo, None, 5)
    work.open()
    work._sessions["decoder"] = Counting(work._sessions["decoder"])
    work.first_mask()
    counted.clear()
    work.decode(8)
    assert counted == [5, 3]


@pytest.mark.parametrize(
    ("backend", "options", "asked", "threads", "per_call"),
    [
        ("onnx", {"provider": "CPUExecutionProvider"}, None, None, None),
        ("onnx", {"provider": "CPUExecutionProvider"}, 3, 3, None),
        ("onnx", {"provider": "CUDAExecutionProvider"}, 3, None, None),
        ("openvino", {"device": "GPU"}, 3, None, None),
        ("tensorrt", {"max_prompts": 16}, 3, None, 16),
    ],
)
def test_threads_and_prompts_of_a_bundle(
    tmp_path: Path,
    tiny: None,
    backend: str,
    options: dict[str, object],
    asked: int | None,
    threads: int | None,
    per_call: int | None,
) -> None:
    path = fake.write(tmp_path / "bundle")
    manifest = fake.manifest_of(path)
    manifest["target"].update(backend=backend, options=options)
    fake.save(path, manifest)
    with ExitStack() as stack:
        (found,) = subjects([path], asked, stack)
    assert (found.threads, found.prompts_per_call) == (threads, per_call)


# ------------------------------------------------------------------ the command


def test_the_command_writes_json_and_a_page(
    bundle: Path, photo: Path, tmp_path: Path, tiny_models: None
) -> None:
    arguments = ["bench", str(bundle), "--image", str(photo), "--repeats", "1", "--warm-up", "0"]
    page = tmp_path / "page.html"
    shown = CliRunner().invoke(cli.app, [*arguments, "--json", "--html", str(page)])
    assert shown.exit_code == 0, shown.output
    assert f"wrote {page}" in shown.stderr
    assert "<svg" in page.read_text("utf-8")
    document = json.loads(shown.stdout)
    assert document["bundles"][0]["model"] == "tiny-sam"
    assert document["repeats"] == 1


def test_a_bundle_that_cannot_run_here_alone_is_an_error(
    photo: Path, tmp_path: Path, tiny_models: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    coreml = unpacked("tiny-sam-coreml", tmp_path)
    shown = CliRunner().invoke(cli.app, ["bench", str(coreml), "--image", str(photo)])
    assert isinstance(shown.exception, CheckFailed)
    assert "no bundle can be timed on this machine" in shown.exception.message
    assert "not timed: its runtime does not run on this machine" in " ".join(shown.stdout.split())
