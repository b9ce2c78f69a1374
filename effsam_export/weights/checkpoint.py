"""Load a checkpoint file into a model, strictly and without running code in the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.errors import CheckpointError, shown
from effsam_export.util.files import reading
from effsam_export.weights import torch_file
from effsam_export.weights.identify import describe
from effsam_export.weights.inert import Record, Unreadable, parts
from effsam_export.weights.pickled import DICTIONARIES, as_mapping, module_tensors
from effsam_export.weights.tensors import Maker, is_tensor

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.weights.torch_file import TorchFile

HINT = "use the authors' file as it was downloaded; `effsam fetch MODEL` downloads it"
FOREIGN = (KeyError, IndexError, ValueError, TypeError, RuntimeError, ZeroDivisionError)
"""What renaming and building raise for tensors of another model."""
WEIGHT_SUFFIXES = (".pt", ".pth", ".safetensors")
CONTAINERS = ("model", "state_dict")
"""Keys under which authors wrap their state dict (EfficientSAM, EfficientViT-SAM)."""


def load(model: ModelSpec, checkpoint: Checkpoint) -> nn.Module:
    """Build a model and load the authors' checkpoint into it; all names and shapes must match.

    Raises:
        CheckpointError: Not a checkpoint, not a state dict, or the state dict of another model.
    """
    settle_vector_maths()
    if checkpoint.sha256 in model.refused:
        raise CheckpointError(
            f"`{checkpoint.path.name}` is refused: {model.refused[checkpoint.sha256]}",
            hint=f"`effsam fetch {model.name}` downloads the right file",
        )
    state = renamed(model, read_state_dict(checkpoint.path))
    module = model.build() if model.build_like is None else outline(model, state)
    problems = mismatches(module, state)
    if problems:
        likely = describe(state)
        identified = f": it looks like {likely} checkpoint" if likely else ""
        raise CheckpointError(
            f"`{checkpoint.path.name}` is not a checkpoint of `{model.name}`{identified}",
            hint="; ".join(problems),
        )
    if unusable := [name for name, value in state.items() if not is_finite(value)]:
        raise CheckpointError(
            f"`{checkpoint.path.name}` has weights that are NaN or infinite in FP32: "
            f"{len(unusable)} of {len(state)} tensors, as `{shown(unusable[0])}`",
            hint="the training diverged, or the file is damaged: use an earlier checkpoint",
        )
    if model.build_like is not None:
        module = model.build_like(state)
    module.load_state_dict(dict(state), strict=True)
    return module.eval()


def renamed(model: ModelSpec, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the state dict with the model's own names; unchanged if it is another model's."""
    try:
        return state if model.rename is None else model.rename(state)
    except FOREIGN:
        return state


def outline(model: ModelSpec, state: Mapping[str, Tensor]) -> nn.Module:
    """Return the module with the widths of a state dict, without memory for its weights.

    Two long tensors of a file could be the sides of a huge one, so it is built after the check.
    """
    import torch

    with torch.device("meta"):
        try:
            return model.build_like(state) if model.build_like else model.build()
        except FOREIGN:
            return model.build()


def is_finite(value: Tensor) -> bool:
    """Return whether all values are finite in FP32, which FP64 exceeds."""
    return not value.is_floating_point() or bool(value.float().isfinite().all())


def settle_vector_maths() -> None:
    """Call each vectorised function once on one number, to avoid a race in MKL.

    The MKL in torch's CPU wheels chooses a function's kernel at its first call. If several threads
    make that call, one of them may get a kernel of low accuracy: sines off by 1.5e-4
    (pytorch#188792). This would affect the reference and constants in graphs.
    """
    import torch

    one = torch.ones(1)
    for function in (torch.sin, torch.cos, torch.sqrt, torch.exp, torch.erf, torch.tanh, torch.log):
        function(one)


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a weight file on the CPU; half precision becomes float32.

    Accepted formats: a state dict or pickled module in PyTorch's formats, safetensors, and a zip
    archive with one of these files. Nothing that a file names is imported or run.

    Raises:
        CheckpointError: The file cannot be read, or has no state dict.
    """
    if path.exists() and not path.is_file():
        raise CheckpointError(f"`{path}` is not a regular file", hint=HINT)
    with reading(path):
        return _read(path, f"`{path}`", archived=False)


def _read(path: Path, name: str, *, archived: bool) -> Mapping[str, Tensor]:
    """Read a weight file of any format, with the name that messages give it."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
            file.seek(0)
            if head[8:9] == b"{":
                return in_full_precision(_read_safetensors(path))
            if not head.startswith(b"PK"):
                return in_full_precision(_state_of(torch_file.read(file), name))
            with torch_file.open_archive(file) as archive:
                # A weight file in an archive is no archive of others, or it could go on forever.
                inner = None if archived else _only_weight_file(archive)
                if inner is not None:
                    return _read_archived(archive, inner, name)
                opened = torch_file.read_zip(archive, torch_file.length_of(file))
                return in_full_precision(_state_of(opened, name))
    except Unreadable as error:
        raise CheckpointError(
            f"{name} cannot be read as a checkpoint: {error}", hint=HINT
        ) from error


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    import safetensors.torch

    try:
        return safetensors.torch.load_file(str(path))
    except OSError:
        raise
    except Exception as error:  # Damaged headers raise several types of exceptions.
        raise Unreadable("it is a broken safetensors file") from error


def _only_weight_file(archive: zipfile.ZipFile) -> zipfile.ZipInfo | None:
    """Return the only weight file in a zip archive; None for PyTorch's own zip files."""
    infos = [i for i in archive.infolist() if not i.filename.endswith("/")]
    if any(i.filename.endswith("data.pkl") for i in infos):
        return None
    weights = [
        i for i in infos if i.filename.endswith(WEIGHT_SUFFIXES) and "__MACOSX" not in i.filename
    ]
    return weights[0] if len(weights) == 1 else None


def _read_archived(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str
) -> Mapping[str, Tensor]:
    """Read a member of an archive through a temporary file, whose path ignores its name."""
    import tempfile
    from pathlib import Path as LocalPath

    with tempfile.TemporaryDirectory() as directory:
        inner = LocalPath(directory) / "weights"
        torch_file.extract(archive, member, inner)
        state = _read(inner, f"`{shown(member.filename)}` in {name}", archived=True)
        # Cloned into memory, because the temporary file is deleted on return.
        return {k: v.clone() for k, v in state.items()}


def _state_of(file: TorchFile, name: str) -> Mapping[str, Tensor]:
    """Return the tensors of a file: its state dict, or those of its pickled module."""
    content = file.content
    for key in CONTAINERS:
        inner = (as_mapping(content) or {}).get(key)
        content = content if as_mapping(inner) is None else inner
    found = as_mapping(content)
    if found is None or not all(isinstance(k, str) and is_tensor(v) for k, v in found.items()):
        found = _module_of(file.content)
    if found is None:
        raise CheckpointError(_without_state(file.content, name), hint=HINT)
    maker = Maker(file)
    return {key: maker.tensor(key, value) for key, value in found.items()}


def _module_of(content: object) -> Mapping[str, Record] | None:
    """Return the tensors of a pickled module; of the averaged one (`ema`) if there are two."""
    entries = as_mapping(content)
    if entries is not None:
        content = entries.get("ema") or entries.get("model")
    return (module_tensors(content) or None) if isinstance(content, Record) else None


def _without_state(content: object, name: str) -> str:
    """Return the message for a file without a state dict, which says if it has code."""
    known = {*DICTIONARIES, "torch.Size", "builtins.set"}
    for part in parts(content):
        if isinstance(part, Record) and not is_tensor(part) and part.kind not in known:
            return (
                f"{name} cannot be read as a checkpoint: it contains code, which is never run, and "
                "no module with tensors"
            )
    return f"{name} holds no state dict (names and tensors)"


def in_full_precision(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the state dict with half-precision tensors as float32."""
    import torch

    halves = (torch.float16, torch.bfloat16)
    return {k: v.float() if v.dtype in halves else v for k, v in state.items()}


def mismatches(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Return how a state dict differs from a module's, a sentence for each kind of difference."""
    expected = module.state_dict()
    shared = [n for n in expected if n in state]
    missing = [n for n in expected if n not in state]
    extra = [n for n in state if n not in expected]
    shapes = [n for n in shared if expected[n].shape != state[n].shape]
    types = [n for n in shared if not _fits(expected[n], state[n])]
    problems = []
    if missing:
        problems.append(f"missing tensors: {len(missing)} of {len(expected)}, as `{missing[0]}`")
    if extra:
        problems.append(f"unknown tensors: {len(extra)}, as `{shown(extra[0])}`")
    if shapes:
        name = shapes[0]
        problems.append(
            f"tensors of another shape: {len(shapes)}, as `{name}`: "
            f"{list(state[name].shape)}, want {list(expected[name].shape)}"
        )
    if types:
        name = types[0]
        found, want = (str(t.dtype).removeprefix("torch.") for t in (state[name], expected[name]))
        problems.append(f"tensors of another type: {len(types)}, as `{name}`: {found}, want {want}")
    return problems


def _fits(expected: Tensor, given: Tensor) -> bool:
    """Return whether a tensor's type can become the expected one without another meaning."""
    import torch

    if not expected.is_floating_point():
        return given.dtype in (expected.dtype, torch.int64, torch.int32)
    return given.dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
