"""Checkpoints of every model from deterministic weights, in the containers their authors use.

`python -m benchmarks.golden_checkpoints MODEL FILE [--golden DIR]`. Their masks mean nothing; their
names, shapes and containers are the authors' (`tests/golden/README.md`), so everything but the
accuracy on real images can be shown with them.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

VARIANTS: dict[str, str] = {
    # model -> folder of its manifest
    "sam-vit-b": "vit_b",
    "sam-vit-l": "vit_l",
    "sam-vit-h": "vit_h",
    "mobile-sam": "vit_t",
    "edge-sam": "edge_sam",
    "edge-sam-3x": "edge_sam",
    "efficient-sam-ti": "efficientsam_vitt",
    "efficient-sam-s": "efficientsam_vits",
    "efficientvit-sam-l0": "efficientvit_sam_l0",
    "efficientvit-sam-l1": "efficientvit_sam_l1",
    "efficientvit-sam-l2": "efficientvit_sam_l2",
    "efficientvit-sam-xl0": "efficientvit_sam_xl0",
    "efficientvit-sam-xl1": "efficientvit_sam_xl1",
    "repvit-sam": "repvit",
    "slim-sam-50": "slimsam_50_uniform",
    "slim-sam-77": "slimsam_77_uniform",
    "fast-sam-s": "fastsam_s",
    "fast-sam-x": "fastsam_x",
    "expedit-sam-vit-b": "expedit_vit_b_amg",
    "expedit-sam-vit-l": "expedit_vit_l_amg",
    "expedit-sam-vit-h": "expedit_vit_h_amg",
    "sam-lightening": "sam_lightening_vit_t",
}
WRAPPED = ("efficient-sam-ti", "efficient-sam-s")
"""Models whose authors save `{"model": state_dict}`."""

DFL = "model.22.dfl.conv.weight"
"""FastSAM's bins 0, 1, 2, ...: a constant that is kept in the checkpoint."""


def golden_dir() -> Path:
    """The authors' manifests: in `$EFFSAM_SHARED`, or in a folder beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    return Path(os.environ.get("EFFSAM_SHARED", beside)) / "golden"


def write_checkpoint(model: str, path: Path, golden: Path) -> Path:
    """Save the checkpoint of one model; the same values at every call."""
    import torch

    manifest = json.loads((golden / VARIANTS[model] / "manifest.json").read_text("utf-8"))
    state = {
        name: _tensor(name, shape, dtype, bool(keep and keep[0]), manifest.get("gain") or {})
        for name, shape, dtype, *keep in manifest["entries"]
    }
    torch.save({"model": state} if model in WRAPPED else state, path)
    return path


def _tensor(name: str, shape: list[int], dtype: str, keep: bool, gains: dict[str, Any]) -> Tensor:
    import torch

    from tests.golden_weights import weight

    kind: torch.dtype = getattr(torch, dtype)
    if name == DFL:
        return torch.arange(shape[1], dtype=kind).reshape(shape)
    if keep:
        return torch.zeros(shape, dtype=kind)
    return torch.from_numpy(weight(name, shape, gains)).to(kind)


def main(argv: list[str] | None = None) -> None:
    """Write one checkpoint."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model", choices=[*VARIANTS])
    parser.add_argument("file", type=Path)
    parser.add_argument("--golden", type=Path, default=golden_dir())
    args = parser.parse_args(argv)
    write_checkpoint(args.model, args.file, args.golden)


if __name__ == "__main__":
    main()
