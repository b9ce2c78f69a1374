"""Cases of matrix products, resizes, normalisations and reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from coremltools.converters.mil import Builder as mb
from torch.nn import functional

from tests.backends.coreml.mil.cases.case import Case, natural, normal, positive, whole
from tests.backends.coreml.mil.cases.values import ACCUMULATED, STORED, fixed, torched

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.backends.coreml.mil.cases.case import Make

    Array = np.ndarray[Any, Any]

PRODUCTS = (
    Case(
        kind="linear",
        shapes=((2, 3, 5),),
        build=lambda t, x: mb.linear(x=x, weight=fixed(4, 5).astype(t), bias=fixed(4).astype(t)),
        expect=lambda x: x @ fixed(4, 5).astype(np.float64).T + fixed(4),
        half=ACCUMULATED,
    ),
    *(
        Case(
            kind="matmul",
            title=f"transposed {int(left)}{int(right)}",
            shapes=((2, 1, 5, 3) if left else (2, 1, 3, 5), (4, 6, 5) if right else (4, 5, 6)),
            build=lambda t, x, y, left=left, right=right: mb.matmul(
                x=x, y=y, transpose_x=left, transpose_y=right
            ),
            expect=lambda x, y, left=left, right=right: np.matmul(
                x.swapaxes(-1, -2) if left else x, y.swapaxes(-1, -2) if right else y
            ),
            half=ACCUMULATED,
        )
        for left in (False, True)
        for right in (False, True)
    ),
    Case(
        kind="einsum",
        shapes=((2, 3, 4, 5), (2, 5, 4, 6)),
        build=lambda t, x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
        expect=lambda x, y: np.einsum("nchw,nwhu->nchu", x, y),
        half=ACCUMULATED,
    ),
    *(
        Case(
            kind="scaled_dot_product_attention",
            title=title,
            shapes=((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4), *mask),
            build=lambda t, q, k, v, *mask: mb.scaled_dot_product_attention(
                query=q, key=k, value=v, **({"attn_mask": mask[0]} if mask else {})
            ),
            expect=torched(functional.scaled_dot_product_attention),
            half=STORED,
            opset="iOS18",
        )
        for title, mask in (("", ()), ("masked", ((1, 1, 3, 5),)))
    ),
    Case(
        kind="scaled_dot_product_attention",
        title="hidden",
        shapes=((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4)),
        build=lambda t, q, k, v: mb.scaled_dot_product_attention(
            query=q, key=k, value=v, attn_mask=np.arange(15).reshape(3, 5) % 3 != 0
        ),
        expect=torched(
            lambda q, k, v: functional.scaled_dot_product_attention(
                q, k, v, torch.arange(15).reshape(3, 5) % 3 != 0
            )
        ),
        half=STORED,
        opset="iOS18",
    ),
)


def sampled(points: Callable[[int, int], Array]) -> Callable[[Array], Array]:
    """A 4x3 image at 9x7 grid points, linearly between the neighbours (numpy's `interp`)."""

    def expect(x: Array) -> Array:
        rows, columns = points(4, 9), points(3, 7)
        tall = np.apply_along_axis(lambda v: np.interp(rows, range(4), v), -2, x)
        return np.apply_along_axis(lambda v: np.interp(columns, range(3), v), -1, tall)

    return expect


GRIDS: dict[str, Callable[[int, int], Array]] = {
    "STRICT_ALIGN_CORNERS": lambda size, want: np.linspace(0, size - 1, want),
    "ALIGN_CORNERS": lambda size, want: np.linspace(0, size - 1, want),
    "DEFAULT": lambda size, want: np.arange(want) * (size - size / want) / (want - 1),
    "OFFSET_CORNERS": lambda size, want: (np.arange(want) + 0.5) * (size - 1) / want,
    "UNALIGN_CORNERS": lambda size, want: (np.arange(want) + 0.5) * size / want - 0.5,
}

RESIZES = (
    *(
        Case(
            kind="resize_bilinear",
            title=mode,
            shapes=((1, 2, 4, 3),),
            build=lambda t, x, mode=mode: mb.resize_bilinear(
                x=x, target_size_height=9, target_size_width=7, sampling_mode=mode
            ),
            expect=sampled(points),
            half=ACCUMULATED,
        )
        for mode, points in GRIDS.items()
    ),
    Case(
        kind="resize",
        shapes=((1, 2, 4, 3),),
        build=lambda t, x: mb.resize(
            x=x,
            shape=np.array([9, 7], np.int32),
            resized_dims=np.uint32(2),
            interpolation_mode="LINEAR",
            sampling_mode="UNALIGN_CORNERS",
        ),
        expect=sampled(GRIDS["UNALIGN_CORNERS"]),
        half=ACCUMULATED,
    ),
    *(
        Case(
            kind="upsample_bilinear",
            title=f"{int(corners)}{int(half)}",
            shapes=((1, 2, 4, 3),),
            build=lambda t, x, corners=corners, half=half: mb.upsample_bilinear(
                x=x,
                scale_factor_height=2,
                scale_factor_width=4,
                align_corners=corners,
                half_pixel_centers=half,
            ),
            expect=torched(
                lambda x, corners=corners: functional.interpolate(
                    x, scale_factor=(2, 4), mode="bilinear", align_corners=corners
                )
            ),
            half=ACCUMULATED,
        )
        for corners, half in ((True, False), (False, True))
    ),
    Case(
        kind="upsample_bilinear",
        title="by default",
        shapes=((1, 2, 4, 3),),
        build=lambda t, x: mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=2),
        expect=torched(
            lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        ),
        half=ACCUMULATED,
    ),
    Case(
        kind="upsample_nearest_neighbor",
        shapes=((1, 2, 4, 3),),
        build=lambda t, x: mb.upsample_nearest_neighbor(
            x=x, scale_factor_height=2, scale_factor_width=3
        ),
        expect=lambda x: x.repeat(2, 2).repeat(3, 3),
        half=0.0,
    ),
    Case(
        kind="resize_nearest_neighbor",
        shapes=((1, 2, 4, 3),),
        build=lambda t, x: mb.resize_nearest_neighbor(
            x=x, target_size_height=12, target_size_width=6
        ),
        expect=lambda x: x.repeat(3, 2).repeat(2, 3),
        half=0.0,
    ),
)


def standard(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centred = x - x.mean(axes, keepdims=True)
    return np.asarray(centred / np.sqrt(centred.var(axes, keepdims=True) + epsilon))


NORMS = (
    Case(
        kind="layer_norm",
        title="over the last axis",
        shapes=((2, 5, 8),),
        build=lambda t, x: mb.layer_norm(
            x=x,
            axes=(-1,),
            gamma=fixed(8).astype(t),
            beta=fixed(8, 1)[:, 0].astype(t),
            epsilon=t(1e-3),
        ),
        expect=lambda x: standard(x, (-1,), 1e-3) * fixed(8) + fixed(8, 1)[:, 0],
        half=STORED,
    ),
    Case(
        kind="layer_norm",
        title="over inner axes",
        shapes=((2, 3, 4, 5),),
        build=lambda t, x: mb.layer_norm(x=x, axes=(2, 1), gamma=fixed(3, 4).astype(t)),
        expect=lambda x: standard(x, (1, 2), 1e-5) * fixed(3, 4).reshape(1, 3, 4, 1),
        half=STORED,
    ),
    Case(
        kind="instance_norm",
        shapes=((2, 3, 4, 5),),
        build=lambda t, x: mb.instance_norm(
            x=x, gamma=fixed(3).astype(t), beta=fixed(3, 1)[:, 0].astype(t), epsilon=t(1e-2)
        ),
        expect=lambda x: (
            standard(x, (2, 3), 1e-2) * fixed(3).reshape(3, 1, 1) + fixed(3, 1).reshape(3, 1, 1)
        ),
        half=STORED,
    ),
    Case(
        kind="batch_norm",
        shapes=((2, 3, 4, 5),),
        build=lambda t, x: mb.batch_norm(
            x=x,
            mean=fixed(3).astype(t),
            variance=np.abs(fixed(3)).astype(t),
            gamma=np.array([0.5, 2, 1], t),
            beta=np.array([1, 0, -1], t),
            epsilon=t(1e-3),
        ),
        expect=lambda x: (
            (x - fixed(3).reshape(3, 1, 1))
            / np.sqrt(np.abs(fixed(3).astype(np.float64)).reshape(3, 1, 1) + 1e-3)
            * np.array([0.5, 2, 1]).reshape(3, 1, 1)
            + np.array([1, 0, -1]).reshape(3, 1, 1)
        ),
        half=ACCUMULATED,
    ),
    Case(
        kind="batch_norm",
        title="plain",
        shapes=((2, 3, 4),),
        build=lambda t, x: mb.batch_norm(
            x=x, mean=fixed(3).astype(t), variance=np.abs(fixed(3)).astype(t)
        ),
        expect=lambda x: (
            (x - fixed(3).reshape(3, 1))
            / np.sqrt(np.abs(fixed(3).astype(np.float64)).reshape(3, 1) + 1e-5)
        ),
        half=ACCUMULATED,
    ),
    Case(
        kind="l2_norm",
        shapes=((2, 3, 4, 2),),
        build=lambda t, x: mb.l2_norm(x=x, epsilon=t(1e-3)),
        expect=lambda x: x / np.sqrt((x**2).sum((1, 2, 3), keepdims=True) + 1e-3),
        half=STORED,
    ),
)


def reduced(
    kind: str, expect: Callable[..., Array], make: Make = normal, half: float = ACCUMULATED
) -> tuple[Case, ...]:
    """Over negative axes that are dropped, over an inner axis that is kept, and over all."""
    op = getattr(mb, kind)
    return (
        Case(
            kind=kind,
            title="dropping",
            shapes=((3, 4, 5),),
            build=lambda t, x: op(x=x, axes=(-1, 0), keep_dims=False),
            expect=lambda x: expect(x, axis=(0, 2)),
            make=make,
            half=half,
        ),
        Case(
            kind=kind,
            title="keeping",
            shapes=((3, 4, 5),),
            build=lambda t, x: op(x=x, axes=(1,), keep_dims=True),
            expect=lambda x: expect(x, axis=(1,), keepdims=True),
            make=make,
            half=half,
        ),
    )


def picked(kind: str, expect: Callable[..., Array]) -> tuple[Case, ...]:
    op = getattr(mb, kind)
    return (
        Case(
            kind=kind,
            title="keeping",
            shapes=((3, 4, 5),),
            build=lambda t, x: op(x=x, axis=-2, keep_dims=True),
            expect=lambda x: expect(x, axis=1)[:, None],
            make=whole,
        ),
        Case(
            kind=kind,
            title="dropping",
            shapes=((3, 4, 5),),
            build=lambda t, x: op(x=x, axis=0, keep_dims=False, output_dtype="int32"),
            expect=lambda x: expect(x, axis=0),
            make=whole,
        ),
    )


REDUCTIONS = (
    *reduced("reduce_mean", np.mean, positive),
    *reduced("reduce_sum", np.sum, positive),
    *reduced("reduce_max", np.max),
    *reduced("reduce_min", np.min),
    *reduced("reduce_prod", np.prod, positive),
    *reduced("reduce_l1_norm", lambda x, **how: np.sum(np.abs(x), **how)),
    *reduced("reduce_l2_norm", lambda x, **how: np.sqrt(np.sum(x * x, **how)), half=STORED),
    *reduced("reduce_sum_square", lambda x, **how: np.sum(x * x, **how), half=STORED),
    *reduced("reduce_log_sum", lambda x, **how: np.log(np.sum(x, **how)), positive, STORED),
    *reduced("reduce_log_sum_exp", lambda x, **how: np.log(np.sum(np.exp(x), **how)), half=STORED),
    Case(
        kind="reduce_sum",
        title="of all",
        shapes=((3, 4),),
        build=lambda t, x: mb.expand_dims(x=mb.reduce_sum(x=x), axes=(0,)),
        expect=lambda x: x.sum(keepdims=True)[0],
        dtypes=("float32", "float16", "int32"),
        make=natural,
    ),
    *picked("reduce_argmax", np.argmax),
    *picked("reduce_argmin", np.argmin),
)

CASES = (*PRODUCTS, *RESIZES, *NORMS, *REDUCTIONS)
