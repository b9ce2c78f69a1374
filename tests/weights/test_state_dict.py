"""Which files are read, and what is said of everything else."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch")
import torch

from effsam_export.errors import CheckpointError
from effsam_export.weights import checkpoint as loading
from effsam_export.weights import own_file
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

pytestmark = pytest.mark.backend

FETCH = "use the authors' file as it was downloaded; `effsam fetch MODEL` downloads it"


class Code:
    """Pickled, it makes a file when it is loaded by anything that runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.path,)


def refusal(path: Path) -> CheckpointError:
    """What reading a file is refused with."""
    with pytest.raises(CheckpointError) as caught:
        loading.read_state_dict(path)
    return caught.value


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


# ------------------------------------------------------------------ files that are no checkpoint


def a_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("this is a text file\n"),
        lambda path: path.write_text("hello\n"),
        lambda path: path.write_bytes(bytes(range(256)) * 8),
        lambda path: path.write_bytes(pickle.dumps({"epoch": 3})),
        a_zip,
    ],
    ids=["empty", "text", "other text", "bytes", "plain pickle", "zip"],
)
def test_not_a_weight_file(tmp_path: Path, write: Callable[[Path], object]) -> None:
    path = tmp_path / "weights.pt"
    write(path)
    error = refusal(path)
    assert (
        error.message == f"`{path}` cannot be read as a checkpoint: it is not a PyTorch weight file"
    )
    assert error.hint == FETCH


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_half_a_checkpoint(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(1000)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:2000])
    what = "its archive is damaged" if zipped else "it ends within the data of a tensor"
    assert refusal(path).message == f"`{path}` cannot be read as a checkpoint: {what}"


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"model": x}], ids=["bare", "wrapped"])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, wrap: Callable[[object], object]) -> None:
    proof = tmp_path / "proof"
    path = save(tmp_path / "weights.pt", wrap({"weight": Code(proof)}))
    error = refusal(path)
    assert not proof.exists()
    assert error.message == (
        f"`{path}` cannot be read as a checkpoint: it contains code, which is never run, and "
        "no module with tensors"
    )
    assert error.hint == FETCH


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_plain_pickle_is_not_run(tmp_path: Path, protocol: int) -> None:
    proof, path = tmp_path / "proof", tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps(Code(proof), protocol=protocol))
    refusal(path)
    assert not proof.exists()


def test_a_pickled_module_gives_its_tensors(tmp_path: Path) -> None:
    path = save(tmp_path / "module.pt", torch.nn.Linear(2, 2))
    assert sorted(loading.read_state_dict(path)) == ["bias", "weight"]


@pytest.mark.parametrize(
    "content",
    [torch.zeros(2), {}, [], {"model": {}, "epoch": 3}, {"optimizer": {"a": torch.zeros(2)}}],
    ids=["tensor", "empty", "empty list", "empty inside", "an optimizer"],
)
def test_no_state_dict_in_it(tmp_path: Path, content: object) -> None:
    path = save(tmp_path / "weights.pt", content)
    error = refusal(path)
    assert error.message == f"`{path}` holds no state dict (names and tensors)"
    assert error.hint == FETCH


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(2)],
        {1: torch.zeros(2)},
        {"scale": torch.zeros(2), "epoch": 3},
        {"model": {"scale": torch.zeros(2), "epoch": 3}},
        {"model": [torch.zeros(2)]},
    ],
    ids=["list", "numbered", "mixed", "mixed inside", "list inside"],
)
def test_tensors_of_something_else(tmp_path: Path, content: object) -> None:
    path = save(tmp_path / "weights.pt", content)
    with pytest.raises(CheckpointError) as caught:
        loading.load(TINY_SAM, own_file.checkpoint_from_file(path, None))
    assert caught.value.message == "`weights.pt` is not a checkpoint of `tiny-sam`"


# ------------------------------------------------------------------ tensors of all kinds


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda v: v.to(torch.complex64), "has the type ComplexFloat"),
        (lambda v: v.to(torch.float8_e4m3fn), "is of a type that no model here has"),
        (lambda v: v.to_sparse(), "is sparse"),
        (lambda v: v[None].to_sparse_csr(), "is sparse"),
        (lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8), "is quantized"),
        (lambda v: v.to("meta"), "is on the `meta` device, without values"),
    ],
    ids=["complex", "float8", "sparse", "csr", "quantized", "meta"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_not_plain_are_named(
    tmp_path: Path, make: Callable[[Tensor], Tensor], what: str, zipped: bool
) -> None:
    path = tmp_path / "weights.pt"
    content = {"a": torch.zeros(2), "b": make(torch.ones(3))}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    error = refusal(path)
    assert error.message == f"`{path}` cannot be read as a checkpoint: its tensor `b` {what}"


def test_tensors_with_attributes_shared_expanded_and_strided_are_read(tmp_path: Path) -> None:
    base = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
    base.trained = "yes"  # type: ignore[attr-defined]
    state = {
        "a": base,
        "transposed": base.detach().T,
        "part": base.detach()[1:, ::2],
        "same": base.detach(),
        "one": torch.ones(1).expand(5),
        "empty": torch.zeros(0, 7),
        "scalar": torch.tensor(3.0),
    }
    torch.save(state, tmp_path / "weights.pt")
    found = loading.read_state_dict(tmp_path / "weights.pt")
    assert list(found) == list(state)
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path / "weights.pt", {"weight": torch.arange(100.0)})
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(path) as archive:
        assert {i.CRC for i in archive.infolist()} == {0}
    assert torch.equal(loading.read_state_dict(path)["weight"], torch.arange(100.0))


def test_a_state_dict_beside_code_is_read(tmp_path: Path) -> None:
    """Of a training checkpoint, whose options are objects of a class."""
    proof = tmp_path / "proof"
    content = {"model": {"weight": torch.ones(2)}, "args": Code(proof), "epoch": 3}
    path = save(tmp_path / "weights.pt", content)
    assert list(loading.read_state_dict(path)) == ["weight"]
    assert not proof.exists()


def test_an_inner_file_is_named_by_its_archive(tmp_path: Path) -> None:
    path = tmp_path / "weights.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/in\x1bner.pt", b"no weights")
    assert refusal(path).message == (
        f"`{path}` cannot be read as a checkpoint: its member `folder/in\\x1bner.pt`: it is not a "
        "PyTorch weight file"
    )


def test_torchscript_is_named(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"script/{name}", b"")
    assert refusal(path).message.endswith("it is a TorchScript program, not a weight file")


# ------------------------------------------------------------------ containers


def tiny_state() -> dict[str, Tensor]:
    return {name: torch.randn(v.shape) for name, v in TINY_SAM.build().state_dict().items()}


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = tiny_state()
    save_file(state, tmp_path / "weights.safetensors")
    found = loading.read_state_dict(tmp_path / "weights.safetensors")
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_broken_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes((1 << 40).to_bytes(8, "little") + b"{" + b"x" * 100)
    with pytest.raises(CheckpointError) as caught:
        loading.read_state_dict(path)
    assert "broken safetensors file" in caught.value.message


def test_a_zip_of_one_weight_file(tmp_path: Path) -> None:
    import zipfile

    state = tiny_state()
    torch.save({"model": state}, tmp_path / "inner.pt")
    with zipfile.ZipFile(tmp_path / "weights.pt.zip", "w") as archive:
        archive.write(tmp_path / "inner.pt", "../somewhere/weights.pt")
        archive.writestr("__MACOSX/weights.pt", b"junk")
    found = loading.read_state_dict(tmp_path / "weights.pt.zip")
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert not (tmp_path.parent / "somewhere").exists()


def test_half_precision_becomes_full(tmp_path: Path) -> None:
    state = {"a": torch.ones(2).half(), "b": torch.ones(2).bfloat16(), "n": torch.tensor(3)}
    torch.save(state, tmp_path / "weights.pt")
    found = loading.read_state_dict(tmp_path / "weights.pt")
    assert [found[k].dtype for k in "abn"] == [torch.float32, torch.float32, torch.int64]
