"""The weight files that the guide on own checkpoints names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Checkpoint


def write_own_checkpoints(official: Checkpoint, folder: Path) -> None:
    """Write the weight files of the guide on own checkpoints."""
    import torch

    from effsam_export.weights.checkpoint import read_state_dict

    state = read_state_dict(official.path)
    torch.save(dict(state), folder / "mobile_sam.pt")
    part = "mask_decoder."
    decoder = {n.removeprefix(part): v for n, v in state.items() if n.startswith(part)}
    torch.save({"model": decoder}, folder / "decoder.pt")
    wrapped = {f"module.{n}": v for n, v in state.items()}
    wrapped["criterion.class_weight"] = torch.ones(1)
    torch.save({"model": wrapped, "epoch": 7, "optimizer": {}}, folder / "trained.pt")
