"""Load a checkpoint file into a model, strictly and without running code in the file."""

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

HINT = "use the authors' file as it was downloaded; `effsam fetch MODEL` downloads it"
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
    state = read_state_dict(checkpoint.path)
    if model.rename is not None:
        state = model.rename(state)
    module = model.build() if model.build_like is None else model.build_like(state)
    problems = mismatches(module, state)
    if problems:
        likely = describe(state)
        identified = f": it looks like {likely} checkpoint" if likely else ""
        raise CheckpointError(
            f"`{checkpoint.path.name}` is not a checkpoint of `{model.name}`{identified}",
            hint="; ".join(problems),
        )
    module.load_state_dict(dict(state), strict=True)
    return module.eval()


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

    Accepted formats: a state dict or pickled module in PyTorch's format, safetensors, and a zip
    archive with one of these files. Nothing that a file names is imported or run.

    Raises:
        CheckpointError: The file cannot be read, or has no state dict.
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
            f"`{path}` cannot be read as a checkpoint: it is a broken safetensors file", hint=HINT
        ) from error


def _only_weight_file(path: Path) -> str | None:
    """Return the only weight file in a zip archive; None for PyTorch's own zip files."""
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
    """Read a member of an archive through a temporary file, whose path ignores its name."""
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
                f"`{path}` cannot be read as a checkpoint: the archive is broken", hint=HINT
            ) from error
        # Cloned into memory, because the temporary file is deleted on return.
        return {k: v.clone() for k, v in read_state_dict(inner).items()}


def _read_torch(path: Path) -> Mapping[str, Tensor]:
    import torch

    try:
        with warnings.catch_warnings():
            # Warnings about pickle protocols do not matter: the file loads, or an error follows.
            warnings.simplefilter("ignore")
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Invalid pickles raise many types of exceptions.
        # Torch's own message is not shown, because it suggests to disable the safety check.
        if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
            return _read_pickled(path)
        raise CheckpointError(
            f"`{path}` cannot be read as a checkpoint: it is not a PyTorch weight file", hint=HINT
        ) from error
    for key in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items()
    ):
        raise CheckpointError(f"`{path}` holds no state dict (names and tensors)", hint=HINT)
    return content


def _read_pickled(path: Path) -> Mapping[str, Tensor]:
    from effsam_export.weights import pickled

    try:
        return pickled.read_module(path)
    except Exception as error:  # Invalid pickles raise many types of exceptions.
        raise CheckpointError(
            f"`{path}` cannot be read as a checkpoint: it contains code, which is never run, and "
            "no module with tensors",
            hint=HINT,
        ) from error


def in_full_precision(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the state dict with half-precision tensors as float32."""
    import torch

    halves = (torch.float16, torch.bfloat16)
    return {k: v.float() if v.dtype in halves else v for k, v in state.items()}


def mismatches(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Return how a state dict differs from a module's, a sentence for each kind of difference."""
    expected = module.state_dict()
    missing = [n for n in expected if n not in state]
    extra = [n for n in state if n not in expected]
    shapes = [n for n in expected if n in state and expected[n].shape != state[n].shape]
    problems = []
    if missing:
        problems.append(f"missing tensors: {len(missing)} of {len(expected)}, as `{missing[0]}`")
    if extra:
        problems.append(f"unknown tensors: {len(extra)}, as `{extra[0]}`")
    if shapes:
        name = shapes[0]
        problems.append(
            f"tensors of another shape: {len(shapes)}, as `{name}`: "
            f"{list(state[name].shape)}, want {list(expected[name].shape)}"
        )
    return problems
