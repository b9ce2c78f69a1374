"""The same weights in the containers and under the names in which training code saves them."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    State = Mapping[str, Tensor]
    Wrap = Callable[[State], Any]

LIGHTNING = {
    "epoch": 3,
    "global_step": 9,
    "pytorch-lightning_version": "2.4.0",
    "loops": {},
    "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best": torch.tensor(0.5)}},
    "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(4)}}, "param_groups": []}],
    "lr_schedulers": [],
}


class Settings:
    """A configuration object of a training script, which this process knows by its class."""

    def __init__(self) -> None:
        self.lr = 1e-4
        self.folder = Path("runs")


def prefixed(prefix: str) -> Wrap:
    return lambda state: OrderedDict((prefix + name, value) for name, value in state.items())


def under(*keys: str, **beside: Any) -> Wrap:  # noqa: ANN401 - any content
    """Return a wrapper in dictionaries, with other entries beside the outermost."""

    def wrap(state: State) -> Any:  # noqa: ANN401 - any content
        content: Any = state
        for key in reversed(keys):
            content = {key: content}
        return {**content, **beside}

    return wrap


def infix(part: str, wrapper: str) -> Wrap:
    return lambda state: {n.replace(f"{part}.", f"{part}.{wrapper}."): v for n, v in state.items()}


def after(first: Wrap, second: Wrap) -> Wrap:
    return lambda state: second(first(state))


def optimizer(state: State) -> dict[str, Any]:
    return {
        "state": {i: {"exp_avg": v.clone(), "step": 3} for i, v in enumerate(state.values())},
        "param_groups": [{"lr": 1e-4, "params": list(range(len(state)))}],
    }


def as_module(state: State) -> nn.Module:
    """Return modules that are nested as the names are."""
    root = nn.Module()
    for name, value in state.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        if value.is_floating_point():
            module.register_parameter(last, nn.Parameter(value))
        else:
            module.register_buffer(last, value)
    return root


def nested(state: State) -> dict[str, dict[str, Tensor]]:
    """Return a dictionary of each part's state dict."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = value
    return parts


WRAPPED: dict[str, Wrap] = {
    # Prefixes
    **{
        f"prefix {p}": prefixed(p)
        for p in (
            *("module.", "_orig_mod.", "model.", "sam.", "net.", "student.", "backbone.sam."),
            *("module._orig_mod.", "_orig_mod.module.", "model.sam.", "model.module.sam."),
            *("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "module.module.module."),
            *("mymodel.", "segmentor.sam_model.", "_forward_module.module."),
        )
    },
    # Wrappers inside names
    **{
        f"{wrapper} in {part}": infix(part, wrapper)
        for wrapper in ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")
        for part in ("image_encoder", "mask_decoder")
    },
    "wrappers at three depths": after(
        infix("image_encoder", "_fsdp_wrapped_module._checkpoint_wrapped_module"),
        prefixed("_fsdp_wrapped_module.model._orig_mod."),
    ),
    # Dictionaries
    **{
        f"under {key}": under(*key.split("."), epoch=7)
        for key in (
            *("model", "state_dict", "model_state", "module", "net", "weights", "sam", "params"),
            *("model_state_dict", "checkpoint.model", "state.model.state_dict", "a.b.c.d.e"),
        )
    },
    "under ema alone": under("ema"),
    "two dictionaries of the same tensors": lambda s: {"model": s, "state_dict": s},
    # Training files
    "training file": lambda s: {"model": s, "optimizer": optimizer(s), "epoch": 7},
    "training file with a numpy scalar": lambda s: {"model": s, "best_loss": np.float64(0.1)},
    "training file with a numpy array": lambda s: {"model": s, "curve": np.arange(3.0)},
    "training file with a Namespace": lambda s: {"model": s, "args": argparse.Namespace(lr=1e-4)},
    "training file with a path": lambda s: {"model": s, "args": {"folder": Path("runs")}},
    "training file with an object": lambda s: {"model": s, "config": Settings()},
    "training file with an optimizer": lambda s: {
        "model": s,
        "optimizer": torch.optim.Adam(nn.Linear(2, 2).parameters()),
    },
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": optimizer(s)},
    "state dict with moments by name": lambda s: {
        "model": s,
        "optimizer_state": {n: {"exp_avg": v.clone()} for n, v in s.items()},
        "adam": {"state": {n: {"exp_avg_sq": v.clone()} for n, v in s.items()}},
    },
    "Lightning": lambda s: {**LIGHTNING, "state_dict": prefixed("model.")(s)},
    "Lightning with hyper-parameters": lambda s: {
        **LIGHTNING,
        "state_dict": prefixed("net.model.")(s),
        "hyper_parameters": argparse.Namespace(lr=1e-4, folder=Path("runs")),
    },
    "DeepSpeed": lambda s: {
        "module": s,
        "buffer_names": [],
        "param_shapes": [OrderedDict((n, v.shape) for n, v in s.items())],
        "ds_config": {"bf16": True},
        "ds_version": "0.14.0",
    },
    "mmengine": lambda s: {
        "meta": {"epoch": 3},
        "state_dict": s,
        "message_hub": Settings(),
        "param_schedulers": [],
    },
    "timm": lambda s: {"arch": "sam", "state_dict": s, "args": argparse.Namespace(), "epoch": 3},
    "Medical-SAM-Adapter": lambda s: {"state_dict": s, "model": "sam", "epoch": 3, "best_tol": 0.1},
    "torch's AveragedModel": lambda s: {"n_averaged": torch.tensor(3), **prefixed("module.")(s)},
    # Modules
    "pickled module": as_module,
    "pickled module under model": lambda s: {"model": as_module(s), "epoch": 3},
    "pickled module in DataParallel": lambda s: nn.DataParallel(as_module(s)),
    "pickled module in a list": lambda s: {"networks": [as_module(s)]},
    "pickled module that holds the model": lambda s: nn.ModuleDict({"sam": as_module(s)}),
    # Shapes of the state dict
    "a dictionary of each part": nested,
    "a dictionary of each part under model": lambda s: {"model": nested(s), "epoch": 3},
    "a state dict of each part": lambda s: {f"{k}_state_dict": v for k, v in nested(s).items()},
    "a dictionary of each part by short names": lambda s: {
        k.removeprefix("image_").removeprefix("mask_"): v for k, v in nested(s).items()
    },
    "parameters": lambda s: {
        n: nn.Parameter(v) if v.is_floating_point() else v for n, v in s.items()
    },
    "an ordered dictionary with metadata": lambda s: as_module(s).state_dict(),
    "another order": lambda s: dict(reversed(list(s.items()))),
    "double precision": lambda s: {
        n: v.double() if v.is_floating_point() else v for n, v in s.items()
    },
    "tensors that are views": lambda s: {n: torch.stack([v, v])[1] for n, v in s.items()},
    # Other tensors
    "a buffer of the loss": lambda s: {**s, "criterion.class_weight": torch.ones(1)},
    "a detection head": lambda s: {
        **s,
        "rpn_head.cls.weight": torch.ones(3),
        "fpn.w": torch.ones(1),
    },
    "SAM's constants": lambda s: {
        **s,
        "pixel_mean": torch.ones(3, 1, 1),
        "pixel_std": torch.ones(3, 1, 1),
    },
    "counts of operations": lambda s: {
        **s,
        "total_ops": torch.zeros(1),
        "image_encoder.total_ops": torch.zeros(1),
        "mask_decoder.total_params": torch.zeros(1),
    },
}  # fmt: skip
"""What is pickled -> the wrapper; each holds exactly the weights that it is given."""
