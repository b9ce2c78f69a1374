"""Which workers of a cluster a cell goes to, and what passes between them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from effsam_export.bundle import archive, read
from effsam_export.errors import BundleError, UsageError
from effsam_export.matrix import cluster, keys, remote, worker
from effsam_export.matrix.cluster import Cluster
from effsam_export.matrix.config import Cell
from effsam_export.matrix.keys import Environment
from effsam_export.matrix.reply import Reply, decode, encode, encode_environment
from effsam_export.matrix.worker import Job, Outcome
from tests.bundle import fake

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Environment(
    version="1",
    code_hash="c",
    data_hash=keys.data_hash(),
    machine="Linux x86_64",
    python="3.11",
    tools={t: "1.0" for b in ("onnx", "openvino", "coreml") for t in keys.tools_of(b, "int8")},
    labels=("linux",),
)


def having(labels: tuple[str, ...] = ("linux",), **tools: str) -> Environment:
    changed = {name.replace("_", "-"): version for name, version in tools.items()}
    return replace(HERE, tools={**HERE.tools, **changed}, labels=labels)


class Client:
    """Of a scheduler with workers whose environments are given."""

    status = "running"

    def __init__(self, environments: Mapping[str, Environment | None]) -> None:
        self.environments = environments

    def run(self, function: object, on_error: str) -> dict[str, object]:
        return {
            address: found if found is None else encode_environment(found)
            for address, found in self.environments.items()
        }

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        return {"workers": {a: {"resources": {"memory_mb": 100.0}} for a in self.environments}}

    def nthreads(self) -> dict[str, int]:
        return dict.fromkeys(self.environments, 2)


def of(
    environments: Mapping[str, Environment | None], requires: Mapping[str, str] | None = None
) -> Cluster:
    return Cluster(Client(environments), requires or {})  # type: ignore[arg-type]


def cell(target: str = "openvino", precision: str = "fp32") -> Cell:
    return Cell(model="mobile-sam", target=target, precision=precision, options={})


def chosen(found: Cluster, which: Cell) -> tuple[str, ...]:
    found.environment(which)
    return found._sites[which.name].addresses


def test_a_cell_goes_to_those_that_have_its_toolchain() -> None:
    found = of({"a": having(), "b": having(openvino="not installed"), "c": having()})
    assert chosen(found, cell()) == ("a", "c")
    assert chosen(found, cell("onnx")) == ("a", "b", "c")
    assert found.slots == 6


def test_int8_needs_its_quantizer() -> None:
    found = of({"a": having(nncf="not installed"), "b": having()})
    assert chosen(found, cell(precision="int8")) == ("b",)
    assert chosen(found, cell(precision="fp32")) == ("a", "b")


def test_of_those_that_can_the_most_that_are_equal() -> None:
    found = of({"a": having(openvino="2"), "b": having(), "c": having()})
    assert chosen(found, cell()) == ("b", "c")
    # Of no concern to ONNX.
    assert chosen(found, cell("onnx")) == ("a", "b", "c")


def test_versions_are_the_workers_own() -> None:
    found = of({"a": having(openvino="7")})
    assert found.environment(cell()).tools["openvino"] == "7"


def test_a_target_may_require_a_label() -> None:
    mac = replace(having(labels=("darwin", "mini")), machine="Darwin arm64")
    found = of({"a": having(), "b": having(), "m": mac}, {"coreml": "mini"})
    assert chosen(found, cell("coreml", "fp16")) == ("m",)
    assert chosen(found, cell("onnx")) == ("a", "b")
    with pytest.raises(UsageError, match="no worker labelled `mini` can build `mobile-sam-coreml"):
        of({"a": having()}, {"coreml": "mini"}).environment(cell("coreml", "fp16"))


def test_nobody_can() -> None:
    with pytest.raises(UsageError, match="no worker can build `mobile-sam-openvino-fp32`"):
        of({"a": having(openvino="not installed")}).environment(cell())


@pytest.mark.parametrize("workers", [{}, {"stranger": None}])
def test_no_worker_of_ours(workers: dict[str, Environment | None]) -> None:
    with pytest.raises(UsageError, match="no worker of effsam-export"):
        of(workers)


def test_workers_with_other_targets_or_recipes_get_nothing() -> None:
    other = replace(having(), data_hash="other")
    assert chosen(of({"a": other, "b": having()}), cell()) == ("b",)
    with pytest.raises(UsageError, match="no worker has the targets and recipes") as caught:
        of({"a": other})
    assert caught.value.hint == "install the same effsam-export on both"


def test_the_scheduler_is_gone_before_anything_is_sent(tmp_path: Path) -> None:
    found = of({"a": having()})
    found.environment(cell())
    found._client.status = "closed"
    outcome = found.execute(job(tmp_path), tmp_path)
    assert (outcome.state, outcome.passed) == ("failed", False)
    assert "none is left" in outcome.message
    assert (tmp_path / worker.LOG).read_text().strip() == "none is left"


def test_an_address_where_nobody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "TIMEOUT_S", 1)
    with pytest.raises(UsageError, match=r"no scheduler answers at `tcp://127\.0\.0\.1:9`"):
        cluster.connect("tcp://127.0.0.1:9")


# ------------------------------------------------------------------ files


def job(folder: Path, target: str = "openvino") -> Job:
    (folder / "w.pt").write_bytes(b"weights")
    return Job(
        name="mobile-sam-openvino-fp32",
        model="mobile-sam",
        target=target,
        precision="fp32",
        options={},
        checkpoint=str(folder / "w.pt"),
        sha256="0" * 64,
        official=False,
        parity=None,
        calibration="default",
        threads=1,
        needs_mb=10.0,
    )


def test_a_file_and_its_images_are_sent_together(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.png").write_bytes(b"picture")
    file = tmp_path / "parity.toml"
    file.write_text("the file")
    data = remote.pack_images(file, [tmp_path / "more" / "a.png"])
    assert data == remote.pack_images(file, [tmp_path / "more" / "a.png"])
    place = remote.unpack_images(data, "parity.toml", tmp_path / "there")
    assert place == tmp_path / "there" / "parity.toml"
    assert (place.parent / "more" / "a.png").read_bytes() == b"picture"


def test_a_folder_of_images_is_sent(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"picture")
    place = remote.unpack_images(
        remote.pack_images(folder, [folder / "a.png"]), "photos", tmp_path / "there"
    )
    assert [p.name for p in place.iterdir()] == ["a.png"]


def test_an_image_outside_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "parity.toml"
    file.write_text("")
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"is outside the folder of `parity\.toml`"):
        remote.pack_images(file, [tmp_path / "a.png"])


def test_equal_files_are_sent_once() -> None:
    names, contents = remote.by_hash({"checkpoint": b"x", "target": b"x", "parity": b"y"})
    assert len(contents) == 2
    assert contents[names["target"]] == b"x"
    assert names["checkpoint"] == hashlib.sha256(b"x").hexdigest()


def test_a_worker_gets_the_files_of_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = tmp_path / "board.toml"
    board.write_text("a target")
    seen: list[Job] = []

    def run(asked: Job, folder: Path) -> Outcome:
        assert Path(asked.checkpoint).read_bytes() == b"weights"
        assert Path(asked.target).read_text() == "a target"
        seen.append(asked)
        fake.write(folder / worker.BUNDLE)
        return Outcome(state="verified", min_iou=0.9)

    monkeypatch.setattr(worker, "run", run)
    asked = job(tmp_path, target=str(board))
    names, contents = remote.by_hash(remote.input_files(asked))
    reply = remote.run_remotely(asdict(asked), names, contents)
    # Names are kept: they are in the manifest.
    assert Path(seen[0].checkpoint).name == "w.pt"
    assert Path(seen[0].target).name == "board.toml"
    assert not Path(seen[0].checkpoint).exists()
    out = tmp_path / "out"
    out.mkdir()
    outcome = remote.unpack_reply(reply, out)
    assert outcome == Outcome(state="verified", min_iou=0.9)
    assert read.integrity(read.read(out / worker.BUNDLE)) == ()
    assert [p.name for p in out.iterdir()] == [worker.BUNDLE]


def test_damaged_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "run", lambda *_: pytest.fail("was run"))
    asked = job(tmp_path)
    names, contents = remote.by_hash(remote.input_files(asked))
    reply = remote.run_remotely(asdict(asked), names, dict.fromkeys(contents, b"damaged"))
    assert decode(reply).outcome.message == "checkpoint was damaged in transfer"


def test_a_forged_bundle_is_refused(tmp_path: Path) -> None:
    archive.pack(fake.write(tmp_path / "bundle-of-it"), tmp_path / "b.zip")
    data = bytearray((tmp_path / "b.zip").read_bytes())
    place = data.index(b"contents of encoder.onnx")
    data[place : place + 8] = b"CONTENTS"
    out = tmp_path / "out"
    out.mkdir()
    reply = Reply(outcome=Outcome(state="verified"), bundle=bytes(data), evidence={})
    with pytest.raises(BundleError):
        remote.unpack_reply(encode(reply), out)
    assert not (out / worker.BUNDLE).exists()


def test_the_evidence_of_a_failure_is_returned(tmp_path: Path) -> None:
    outcome = Outcome(state="failed", message="no")
    evidence = {"log.txt": b"log", "parity.json": b"{}"}
    out = tmp_path / "a" / "out"
    out.mkdir(parents=True)
    reply = Reply(outcome=outcome, evidence=evidence)
    assert remote.unpack_reply(encode(reply), out) == outcome
    assert (out / "log.txt").read_bytes() == b"log"
    assert [p.name for p in (out / "bundle.failed").iterdir()] == ["parity.json"]


class Answered:
    """A future that is done, with a result or an exception."""

    def __init__(self, result: object) -> None:
        self._result = result

    def done(self) -> bool:
        return True

    def result(self) -> object:
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "the worker's reply is refused"),
        ({"outcome": {}}, "the worker's reply is refused"),
        (encode(Reply(outcome=Outcome(state="verified"), evidence={})), "its files contradict"),
        (
            encode(Reply(outcome=Outcome(state="verified"), bundle=b"no zip", evidence={})),
            "zip",
        ),
        (ZeroDivisionError("in the worker"), "the worker raised ZeroDivisionError: in the worker"),
    ],
    ids=["empty", "an object", "no bundle", "a bad bundle", "an exception"],
)
def test_a_bad_reply_is_the_failure_of_its_cell(
    tmp_path: Path, answer: object, message: str
) -> None:
    pytest.importorskip("distributed")
    found = of({"a": having()})
    found.environment(cell())
    client: Any = found._client
    client.scatter = lambda contents, workers: contents
    client.submit = lambda *_, **__: Answered(answer)
    asked = job(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    outcome = found.execute(asked, out)
    assert outcome.state == "failed"
    assert message in outcome.message
    assert message in (out / worker.LOG).read_text()
    assert [p.name for p in out.iterdir()] == [worker.LOG]
