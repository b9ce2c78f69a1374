"""Cases of arithmetic, comparison, logic and activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from coremltools.converters.mil import Builder as mb
from torch.nn import functional

from tests.backends.coreml.mil.cases.case import Case, inside, natural, normal, positive, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.backends.coreml.mil.cases.case import Make, Var

    Array = np.ndarray[Any, Any]

SHAPE = (2, 3, 5)


def unary(kind: str, expect: Callable[[Array], Array], make: Make = normal) -> Case:
    op = getattr(mb, kind)
    return Case(kind=kind, shapes=(SHAPE,), build=lambda t, x: op(x=x), expect=expect, make=make)


def binary(kind: str, expect: Callable[[Array, Array], Array], make: Make = normal) -> Case:
    """With both operands broadcast."""
    op = getattr(mb, kind)
    return Case(
        kind=kind,
        shapes=((2, 1, 5), (3, 1)),
        build=lambda t, x, y: op(x=x, y=y),
        expect=expect,
        make=make,
    )


def compared(kind: str, expect: Callable[[Array, Array], Array]) -> Case:
    op = getattr(mb, kind)
    return Case(
        kind=kind,
        shapes=((4, 6), (6,)),
        build=lambda t, x, y: mb.cast(x=op(x=x, y=y), dtype="int32"),
        expect=lambda x, y: expect(x, y).astype(np.int64),
        make=whole,
    )


def logical(kind: str, expect: Callable[[Array, Array], Array]) -> Case:
    op = getattr(mb, kind)
    return Case(
        kind=kind,
        shapes=((4, 6), (6,)),
        build=lambda t, x, y: mb.cast(
            x=op(x=mb.greater(x=x, y=t(0)), y=mb.greater(x=y, y=t(0))), dtype="int32"
        ),
        expect=lambda x, y: expect(x > 0, y > 0).astype(np.int64),
    )


def integers(kind: str, expect: Callable[[Array, Array], Array]) -> Case:
    op = getattr(mb, kind)
    return Case(
        kind=kind,
        title="of integers",
        shapes=((4, 6), (6,)),
        build=lambda t, x, y: op(x=x, y=y),
        expect=expect,
        make=natural,
        dtypes=("int32",),
    )


def by_torch(function: Callable[..., torch.Tensor], *rest: int) -> Callable[[Array], Array]:
    return lambda x: function(torch.from_numpy(x), *rest).numpy()


def _gelu(t: type, x: Var, mode: str) -> Var:
    return mb.gelu(x=x, mode=mode)


ARITHMETIC = (
    unary("abs", np.abs),
    unary("acos", np.arccos, inside),
    unary("asin", np.arcsin, inside),
    unary("atan", np.arctan),
    unary("ceil", np.ceil),
    unary("cos", np.cos),
    unary("cosh", np.cosh),
    unary("erf", by_torch(torch.special.erf)),
    unary("exp", np.exp),
    unary("exp2", np.exp2),
    unary("floor", np.floor),
    unary("round", np.round),
    unary("sign", np.sign),
    unary("sin", np.sin),
    unary("sinh", np.sinh),
    unary("sqrt", np.sqrt, positive),
    unary("square", np.square),
    unary("tan", np.tan, inside),
    unary("tanh", np.tanh),
    Case(
        kind="inverse",
        shapes=(SHAPE,),
        build=lambda t, x: mb.inverse(x=x, epsilon=t(0.25)),
        expect=lambda x: 1 / (x + 0.25),
        make=positive,
        half=2.0**-10,
    ),
    Case(
        kind="inverse",
        title="by default",
        shapes=(SHAPE,),
        build=lambda t, x: mb.inverse(x=x),
        expect=lambda x: 1 / (x + 1e-4),
        make=positive,
        half=2.0**-10,
    ),
    Case(
        kind="log",
        shapes=(SHAPE,),
        build=lambda t, x: mb.log(x=x, epsilon=t(2.0)),
        expect=lambda x: np.log(x + 2.0),
        make=positive,
        half=2.0**-10,
    ),
    Case(
        kind="rsqrt",
        shapes=(SHAPE,),
        build=lambda t, x: mb.rsqrt(x=x, epsilon=t(0.25)),
        expect=lambda x: 1 / np.sqrt(x + 0.25),
        make=positive,
        half=2.0**-10,
    ),
    binary("add", np.add),
    binary("floor_div", np.floor_divide, natural),
    binary("maximum", np.maximum),
    binary("minimum", np.minimum),
    binary("mod", np.mod, natural),
    binary("mul", np.multiply),
    binary("pow", np.power, positive),
    binary("real_div", np.divide, positive),
    binary("sub", np.subtract),
    integers("add", np.add),
    integers("floor_div", np.floor_divide),
    integers("mod", np.mod),
    integers("mul", np.multiply),
    compared("equal", np.equal),
    compared("greater", np.greater),
    compared("greater_equal", np.greater_equal),
    compared("less", np.less),
    compared("less_equal", np.less_equal),
    compared("not_equal", np.not_equal),
    logical("logical_and", np.logical_and),
    logical("logical_or", np.logical_or),
    logical("logical_xor", np.logical_xor),
    Case(
        kind="logical_not",
        shapes=(SHAPE,),
        build=lambda t, x: mb.cast(x=mb.logical_not(x=mb.greater(x=x, y=t(0))), dtype="int32"),
        expect=lambda x: (x <= 0).astype(np.int64),
    ),
    *(
        Case(
            kind="cast",
            title=f"to {dtype}",
            shapes=(SHAPE,),
            build=lambda t, x, dtype=dtype: mb.cast(x=mb.cast(x=x, dtype=dtype), dtype="fp32"),
            # Towards zero.
            expect=lambda x: np.trunc(4 * x / 4),
            make=lambda rng, shape: rng.uniform(1.0, 100.0, shape),
        )
        for dtype in ("int8", "uint8", "int16", "uint16", "int32")
    ),
    Case(
        kind="cast",
        title="to bool",
        shapes=(SHAPE,),
        build=lambda t, x: mb.cast(x=mb.cast(x=x, dtype="bool"), dtype="int32"),
        expect=lambda x: (x != 0).astype(np.int64),
        make=whole,
    ),
    Case(
        kind="cast",
        title="to half",
        shapes=(SHAPE,),
        build=lambda t, x: mb.cast(x=mb.cast(x=x, dtype="fp16"), dtype="fp32"),
        expect=lambda x: x.astype(np.float16),
    ),
    Case(
        kind="clip",
        shapes=(SHAPE,),
        build=lambda t, x: mb.clip(x=x, alpha=t(-0.5), beta=t(0.75)),
        expect=lambda x: np.clip(x, -0.5, 0.75),
    ),
    Case(
        kind="threshold",
        shapes=(SHAPE,),
        build=lambda t, x: mb.threshold(x=x, alpha=t(0.5)),
        expect=lambda x: np.maximum(x, 0.5),
    ),
    Case(
        kind="select",
        shapes=(SHAPE, SHAPE),
        build=lambda t, x, y: mb.select(cond=mb.greater(x=x, y=t(0)), a=x, b=y),
        expect=lambda x, y: np.where(x > 0, x, y),
    ),
)

ACTIVATIONS = (
    unary("relu", lambda x: np.maximum(x, 0)),
    unary("relu6", lambda x: np.clip(x * 1, 0, 6)),
    unary("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
    unary("softplus", lambda x: np.log1p(np.exp(x))),
    unary("softsign", lambda x: x / (1 + np.abs(x))),
    Case(
        kind="silu",
        shapes=(SHAPE,),
        build=lambda t, x: mb.silu(x=x),
        expect=lambda x: x / (1 + np.exp(-x)),
        half=2.0**-10,
    ),
    *(
        Case(
            kind="gelu",
            title=mode,
            shapes=(SHAPE,),
            build=lambda t, x, mode=mode: _gelu(t, x, mode),
            expect=expect,
            half=2.0**-7,
        )
        for mode, expect in (
            ("EXACT", by_torch(functional.gelu)),
            ("TANH_APPROXIMATION", lambda x: by_torch(torch.nn.GELU("tanh"))(x)),
            ("SIGMOID_APPROXIMATION", lambda x: x / (1 + np.exp(-1.702 * x))),
        )
    ),
    Case(
        kind="leaky_relu",
        shapes=(SHAPE,),
        build=lambda t, x: mb.leaky_relu(x=x, alpha=t(0.125)),
        expect=lambda x: np.where(x >= 0, x, 0.125 * x),
    ),
    Case(
        kind="elu",
        shapes=(SHAPE,),
        build=lambda t, x: mb.elu(x=x, alpha=t(0.5)),
        expect=lambda x: np.where(x >= 0, x, 0.5 * np.expm1(x)),
    ),
    Case(
        kind="clamped_relu",
        shapes=(SHAPE,),
        build=lambda t, x: mb.clamped_relu(x=x, alpha=t(0.5), beta=t(0.75)),
        expect=lambda x: np.minimum(0.75, np.where(x >= 0, x, 0.5 * x)),
    ),
    Case(
        kind="linear_activation",
        shapes=(SHAPE,),
        build=lambda t, x: mb.linear_activation(x=x, alpha=t(0.5), beta=t(2.0)),
        expect=lambda x: 0.5 * x + 2.0,
    ),
    Case(
        kind="sigmoid_hard",
        shapes=(SHAPE,),
        build=lambda t, x: mb.sigmoid_hard(x=x, alpha=t(0.25), beta=t(0.5)),
        expect=lambda x: np.clip(0.25 * x + 0.5, 0, 1),
    ),
    Case(
        kind="prelu",
        shapes=((2, 3, 4, 5),),
        build=lambda t, x: mb.prelu(x=x, alpha=np.array([0.25, 0.5, 2.0], t)),
        expect=lambda x: np.where(x >= 0, x, x * np.array([0.25, 0.5, 2.0]).reshape(1, 3, 1, 1)),
    ),
    *(
        Case(
            kind="softmax",
            title=f"along {axis}",
            shapes=((3, 4, 7),),
            build=lambda t, x, axis=axis: mb.softmax(x=x, axis=axis),
            expect=lambda x, axis=axis: by_torch(torch.softmax, axis)(x),
            half=2.0**-8,
        )
        for axis in (-1, 0, 1)
    ),
)

CASES = (*ARITHMETIC, *ACTIVATIONS)
