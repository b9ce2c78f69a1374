"""A checkpoint file into a model, strictly and without running anything in it."""

from __future__ import annotations

import pickle
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from effsam_export.errors import CheckpointError
from effsam_export.weights.identify import describe

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint

AGAIN = "give the authors' file as it was downloaded; `effsam fetch MODEL` gets it"
WEIGHT_SUFFIXES = (".pt", ".pth", ".safetensors")
CONTAINERS = ("model", "state_dict")
"""Keys under which authors wrap their state dict (EfficientSAM, EfficientViT-SAM)."""


def load(model: ModelSpec, checkpoint: Checkpoint) -> nn.Module:
    """Build a model and load the authors' checkpoint into it, every tensor by name and shape.

    Raises:
        CheckpointError: Not a checkpoint, not a state dict, or the state dict of another model.
    """
    settle_vector_maths()
    if checkpoint.sha256 in model.refused:
        raise CheckpointError(
            f"`{checkpoint.path.name}` is refused: {model.refused[checkpoint.sha256]}",
            hint=f"`effsam fetch {model.name}` gets the right file",
        )
    state = read_state_dict(checkpoint.path)
    if model.rename is not None:
        state = model.rename(state)
    module = model.build() if model.build_like is None else model.build_like(state)
    problems = mismatches(module, state)
    if problems:
        likely = describe(state)
        said = f": it looks like {likely} checkpoint" if likely else ""
        raise CheckpointError(
            f"`{checkpoint.path.name}` is not a checkpoint of `{model.name}`{said}",
            hint="; ".join(problems),
        )
    module.load_state_dict(dict(state), strict=True)
    return module.eval()


def settle_vector_maths() -> None:
    """Call each vectorised function once on one number, before threads can race for it.

    The MKL in torch's CPU wheels picks a function's kernel at its first call. If that call runs on
    several threads, one of them may get a kernel of low accuracy for its share: sines off by
    1.5e-4, in one process of twenty or so (pytorch#188792). The reference and the constants that
    are baked into graphs must not depend on that.
    """
    import torch

    one = torch.ones(1)
    for function in (torch.sin, torch.cos, torch.sqrt, torch.exp, torch.erf, torch.tanh, torch.log):
        function(one)


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    """Read the tensors of a weight file onto the CPU, half precision made float32.

    Taken are state dicts, plain or wrapped, and pickled modules in PyTorch's format; safetensors;
    and a zip archive that holds one of them. Nothing that a file names is imported or run.

    Raises:
        CheckpointError: The file cannot be read, or holds something else.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:9] == b"{":
        return _read_safetensors(path)
    inner = _only_weight_file(path) if head.startswith(b"PK") else None
    if inner is not None:
        return _read_archived(path, inner)
    return in_full_precision(_read_torch(path))


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    import safetensors
    import safetensors.torch

    try:
        return in_full_precision(safetensors.torch.load_file(str(path)))
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(
            f"`{path}` cannot be read as a checkpoint: it is a broken safetensors file", hint=AGAIN
        ) from error


def _only_weight_file(path: Path) -> str | None:
    """The one weight file in a zip archive; None for PyTorch's own zip files and all others."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if not n.endswith("/")]
    except (zipfile.BadZipFile, OSError):
        return None
    if any(n.endswith("data.pkl") for n in names):
        return None
    weights = [n for n in names if n.endswith(WEIGHT_SUFFIXES) and "__MACOSX" not in n]
    return weights[0] if len(weights) == 1 else None


def _read_archived(path: Path, member: str) -> Mapping[str, Tensor]:
    """Read a member of an archive through a temporary file; its name is used for nothing."""
    import tempfile
    from pathlib import Path as LocalPath

    with tempfile.TemporaryDirectory() as directory:
        inner = LocalPath(directory) / "weights"
        try:
            with (
                zipfile.ZipFile(path) as archive,
                archive.open(member) as source,
                inner.open("wb") as target,
            ):
                shutil.copyfileobj(source, target)
        except (zipfile.BadZipFile, OSError, RuntimeError) as error:
            raise CheckpointError(
                f"`{path}` cannot be read as a checkpoint: the archive is broken", hint=AGAIN
            ) from error
        # Read into memory whole: the file goes when this returns.
        return {k: v.clone() for k, v in read_state_dict(inner).items()}


def _read_torch(path: Path) -> Mapping[str, Tensor]:
    import torch

    try:
        with warnings.catch_warnings():
            # Notes on pickle protocols, of files that then load or are refused all the same.
            warnings.simplefilter("ignore")
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Any: bytes that are no pickle trip the unpickler in many ways.
        # Torch's own message advises to switch the safety off; it is not passed on.
        if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
            return _read_pickled(path)
        raise CheckpointError(
            f"`{path}` cannot be read as a checkpoint: it is no PyTorch weight file", hint=AGAIN
        ) from error
    for key in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items()
    ):
        raise CheckpointError(f"`{path}` holds no state dict (names and tensors)", hint=AGAIN)
    return content


def _read_pickled(path: Path) -> Mapping[str, Tensor]:
    from effsam_export.weights import pickled

    try:
        return pickled.read_module(path)
    except Exception as error:  # Any: as above.
        raise CheckpointError(
            f"`{path}` cannot be read as a checkpoint: it holds code, which is never run, and no "
            "module whose tensors could be taken",
            hint=AGAIN,
        ) from error


def in_full_precision(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Half-precision tensors as float32; all others as they are."""
    import torch

    halves = (torch.float16, torch.bfloat16)
    return {k: v.float() if v.dtype in halves else v for k, v in state.items()}


def mismatches(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """How a state dict differs from what a module wants, one sentence per kind of difference."""
    wanted = module.state_dict()
    missing = [n for n in wanted if n not in state]
    extra = [n for n in state if n not in wanted]
    shapes = [n for n in wanted if n in state and wanted[n].shape != state[n].shape]
    problems = []
    if missing:
        problems.append(f"missing are {len(missing)} of {len(wanted)} tensors, as `{missing[0]}`")
    if extra:
        problems.append(f"unknown to it: {len(extra)}, as `{extra[0]}`")
    if shapes:
        name = shapes[0]
        problems.append(
            f"of another shape: {len(shapes)}, as `{name}`: "
            f"{list(state[name].shape)}, want {list(wanted[name].shape)}"
        )
    return problems
