"""Save small MIL programs as packages and evaluate them."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from effsam_export.backends.coreml.mil import evaluate, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.backends.coreml.mil.cases.case import Var

    Array = np.ndarray[Any, Any]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress coremltools' progress bar and its warnings about other packages."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def save(
    path: Path,
    inputs: Sequence[tuple[tuple[int, ...], str]],
    build: Callable[..., Var],
    opset: str = "iOS17",
) -> Path:
    """Save `build(*inputs)` as a package whose outputs are `out0`, `out1`, ...

    Args:
        path: Of the `.mlpackage`.
        inputs: Shape and numpy dtype of `in0`, `in1`, ...
        build: Called with coremltools' variables; gives one or several.
        opset: Deployment target.
    """
    with quiet():
        import coremltools as ct
        from coremltools.converters.mil import Builder as mb
        from coremltools.converters.mil.mil import Function, Placeholder, Program, types

        target = ct.target[opset]
        dtypes = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32}
        holders = {
            f"in{index}": Placeholder(sym_shape=shape, dtype=dtypes[dtype])
            for index, (shape, dtype) in enumerate(inputs)
        }
        program = Program()
        with Function(holders, opset_version=target) as function:
            found = build(*(function.inputs[name] for name in holders))
            found = found if isinstance(found, (list, tuple)) else (found,)
            named = [mb.identity(x=var, name=f"out{i}") for i, var in enumerate(found)]
            function.set_outputs(named)
            program.add_function("main", function)
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=target,
            # What is built is what is saved: nothing is folded, fused or cast.
            pass_pipeline=ct.PassPipeline.EMPTY,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
        model.save(str(path))
        # Its temporary folder goes with it, and says so.
        del model
    return path


def run(package: Path, *values: Array, pessimistic: bool = True) -> list[Array]:
    """Evaluate a package of `save`."""
    feeds = {f"in{index}": value for index, value in enumerate(values)}
    outputs = evaluate.run(read.load(package), feeds, pessimistic=pessimistic)
    return list(outputs.values())


def convert(
    module: torch.nn.Module,
    example: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    path: Path,
    half: bool = False,
) -> Path:
    """Convert a torch module as the Core ML backend does, without its recipes."""
    with quiet():
        import coremltools as ct

        with torch.no_grad():
            traced = torch.export.export(module.eval(), tuple(example.values()))
        model = ct.convert(
            traced.run_decompositions({}),
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            inputs=[
                ct.TensorType(name=name, shape=value.shape, dtype=np.float32)
                for name, value in example.items()
            ],
            outputs=[ct.TensorType(name=name, dtype=np.float32) for name in outputs],
            skip_model_load=True,
        )
        model.save(str(path))
        del model
    return path
