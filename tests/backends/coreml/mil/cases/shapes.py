"""Cases of ops that move values, which are exact in every dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from coremltools.converters.mil import Builder as mb

from tests.backends.coreml.mil.cases.case import Case, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.backends.coreml.mil.cases.case import Make, Parameter, Var

    Array = np.ndarray[Any, Any]

EVERY = ("float32", "float16", "int32")
X = ((2, 3, 4),)


def moved(
    kind: str,
    title: str,
    build: Callable[..., Var],
    expect: Callable[..., Any],
    shapes: tuple[tuple[int, ...], ...] = X,
    dtypes: tuple[str, ...] = EVERY,
    make: Make = whole,
) -> Case:
    return Case(
        kind=kind,
        title=title,
        shapes=shapes,
        build=build,
        expect=expect,
        make=make,
        dtypes=dtypes,
        half=0.0,
    )


def sliced(title: str, expect: Callable[..., Any], **parameters: Parameter) -> Case:
    return moved(
        "slice_by_index",
        title,
        lambda t, x: mb.slice_by_index(x=x, **parameters),
        expect,
        shapes=((4, 5, 6),),
    )


def _one_hot(indices: Array) -> Array:
    return np.moveaxis(np.where(np.eye(5)[indices] > 0, 7, -1), -1, 1)


def _tied(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return many equal values, to test the order among them."""
    return rng.integers(0, 4, shape).astype(np.float64)


def _best(x: Array, k: int, axis: int) -> tuple[Array, Array]:
    order = np.argsort(-x, axis=axis, kind="stable").take(range(k), axis=axis)
    return np.take_along_axis(x, order, axis), order


def _depth_to_space(x: Array) -> Array:
    """Channel (a * 2 + b) * 2 + c of 8 goes to row a and column b of channel c."""
    n, _, h, w = x.shape
    result = np.zeros((n, 2, 2 * h, 2 * w))
    for a in range(2):
        for b in range(2):
            for c in range(2):
                result[:, c, a::2, b::2] = x[:, (a * 2 + b) * 2 + c]
    return result


MOVES = (
    moved("reshape", "", lambda t, x: mb.reshape(x=x, shape=(4, -1)), lambda x: x.reshape(4, 6)),
    moved(
        "reshape",
        "keeping a size",
        lambda t, x: mb.reshape(x=x, shape=(0, 4, 3)),
        lambda x: x.reshape(2, 4, 3),
    ),
    moved(
        "transpose",
        "",
        lambda t, x: mb.transpose(x=x, perm=(2, 0, -2)),
        lambda x: x.transpose(2, 0, 1),
    ),
    moved(
        "expand_dims",
        "at both ends",
        lambda t, x: mb.expand_dims(x=x, axes=(-1, 0)),
        lambda x: x[None, ..., None],
    ),
    moved(
        "squeeze",
        "of one axis",
        lambda t, x: mb.squeeze(x=x, axes=(-2,)),
        lambda x: x[:, :, 0],
        shapes=((2, 1, 1, 3),),
    ),
    moved("squeeze", "of all", lambda t, x: mb.squeeze(x=x), np.squeeze, shapes=((2, 1, 1, 3),)),
    moved(
        "concat",
        "",
        lambda t, x, y: mb.concat(values=(x, y), axis=-2),
        lambda x, y: np.concatenate((x, y), -2),
        shapes=((2, 3, 4), (2, 1, 4)),
    ),
    moved(
        "concat",
        "interleaved",
        lambda t, x, y: mb.concat(values=(x, y), axis=1, interleave=True),
        lambda x, y: np.stack((x, y), 2).reshape(2, 6, 4),
        shapes=((2, 3, 4), (2, 3, 4)),
    ),
    moved(
        "stack",
        "",
        lambda t, x, y: mb.stack(values=(x, y), axis=-1),
        lambda x, y: np.stack((x, y), -1),
        shapes=((2, 3), (2, 3)),
    ),
    moved(
        "split",
        "by sizes",
        lambda t, x: mb.split(x=x, split_sizes=(1, 3), axis=-1),
        lambda x: (x[..., :1], x[..., 1:]),
    ),
    moved(
        "split",
        "in equal parts",
        lambda t, x: mb.split(x=x, num_splits=2, axis=2),
        lambda x: (x[..., :2], x[..., 2:]),
    ),
    moved("tile", "", lambda t, x: mb.tile(x=x, reps=(1, 2, 3)), lambda x: np.tile(x, (1, 2, 3))),
    moved("reverse", "", lambda t, x: mb.reverse(x=x, axes=(0, -1)), lambda x: x[::-1, :, ::-1]),
    moved("identity", "", lambda t, x: mb.identity(x=x), lambda x: x),
    moved("shape", "", lambda t, x: mb.shape(x=x), lambda x: np.array(x.shape)),
    moved(
        "fill",
        "",
        lambda t, x: mb.add(x=x, y=mb.fill(shape=mb.shape(x=x), value=t(3))),
        lambda x: x + 3,
    ),
    moved(
        "range_1d",
        "",
        lambda t, x: mb.range_1d(
            start=t(1), end=mb.reduce_sum(x=x, axes=(0,), keep_dims=False), step=t(2)
        ),
        lambda x: np.arange(1, x.sum(), 2),
        shapes=((3,),),
        make=lambda rng, shape: rng.integers(2, 5, shape).astype(np.float64),
    ),
    moved(
        "flatten2d",
        "",
        lambda t, x: mb.flatten2d(x=x, axis=-1),
        lambda x: x.reshape(6, 4),
        dtypes=EVERY[:2],
    ),
    moved(
        "pixel_shuffle",
        "",
        lambda t, x: mb.pixel_shuffle(x=x, upscale_factor=2),
        lambda x: torch.pixel_shuffle(torch.from_numpy(x), 2).numpy(),
        shapes=((1, 8, 2, 3),),
        dtypes=EVERY[:2],
    ),
    moved(
        "depth_to_space",
        "",
        lambda t, x: mb.depth_to_space(x=x, block_size=2),
        _depth_to_space,
        shapes=((1, 8, 2, 3),),
        dtypes=EVERY[:2],
    ),
    moved(
        "space_to_depth",
        "",
        lambda t, x: mb.depth_to_space(x=mb.space_to_depth(x=x, block_size=2), block_size=2),
        lambda x: x,
        shapes=((1, 3, 4, 6),),
        dtypes=EVERY[:2],
    ),
)

PADS = (
    moved(
        "pad",
        "with a constant",
        lambda t, x: mb.pad(x=x, pad=(1, 0, 2, 3), mode="constant", constant_val=t(5)),
        lambda x: np.pad(x, ((0, 0), (1, 0), (2, 3)), constant_values=5),
        dtypes=EVERY[:2],
    ),
    moved(
        "pad",
        "by reflection",
        lambda t, x: mb.pad(x=x, pad=(2, 1, 3, 0), mode="reflect"),
        lambda x: np.pad(x, ((0, 0), (2, 1), (3, 0)), "reflect"),
        dtypes=EVERY[:2],
    ),
    moved(
        "pad",
        "by the edge",
        lambda t, x: mb.pad(x=x, pad=(0, 1, 2, 2, 3, 0), mode="replicate"),
        lambda x: np.pad(x, ((0, 1), (2, 2), (3, 0)), "edge"),
        dtypes=EVERY[:2],
    ),
)

SLICES = (
    sliced(
        "with steps",
        lambda x: x[1:4:2, 0:5, -5:-1:3],
        begin=(1, 0, -5),
        end=(4, 5, -1),
        stride=(2, 1, 3),
    ),
    sliced(
        "backwards",
        lambda x: x[::-2, 3:0:-1],
        begin=(0, 3, 0),
        end=(0, 0, 0),
        stride=(-2, -1, 1),
        begin_mask=(True, False, True),
        end_mask=(True, False, True),
    ),
    sliced(
        "with indices",
        lambda x: x[-1, 1:3, 2],
        begin=(-1, 1, 2),
        end=(0, 3, 3),
        squeeze_mask=(True, False, True),
    ),
    moved(
        "slice_by_size",
        "",
        lambda t, x: mb.slice_by_size(x=x, begin=(0, 1, -3), size=(2, -1, 2)),
        lambda x: x[0:2, 1:, 1:3],
    ),
)

PICKS = (
    moved(
        "gather",
        "",
        lambda t, x: mb.gather(x=x, indices=np.array([[2, 0], [1, 1]], np.int32), axis=-2),
        lambda x: x[:, [[2, 0], [1, 1]]],
    ),
    moved(
        "gather",
        "of short indices",
        lambda t, x: mb.gather(x=x, indices=np.array([2, 0], np.uint16), axis=1),
        lambda x: x[:, [2, 0]],
    ),
    moved(
        "gather_along_axis",
        "",
        lambda t, x: mb.gather_along_axis(
            x=x, indices=np.array([[0, 1, 1, 0], [2, 2, 0, 1]], np.int32), axis=0
        ),
        lambda x: np.take_along_axis(x, np.array([[0, 1, 1, 0], [2, 2, 0, 1]]), 0),
        shapes=((3, 4),),
    ),
    moved(
        "gather_nd",
        "",
        lambda t, x: mb.gather_nd(x=x, indices=np.array([[0, 1], [1, 2]], np.int32)),
        lambda x: x[[0, 1], [1, 2]],
    ),
    moved(
        "scatter_along_axis",
        "",
        lambda t, x: mb.scatter_along_axis(
            data=x,
            indices=np.array([[2, 0, 1, 1]], np.int32),
            updates=np.array([[9, 8, 7, 6]], t),
            axis=0,
            mode="update",
        ),
        lambda x: _scattered(x),
        shapes=((3, 4),),
    ),
    moved(
        "one_hot",
        "",
        lambda t, x: mb.one_hot(
            indices=x, one_hot_vector_size=5, axis=1, on_value=np.int32(7), off_value=np.int32(-1)
        ),
        _one_hot,
        shapes=((2, 3),),
        dtypes=("int32",),
        make=_tied,
    ),
    *(
        moved(
            "topk",
            f"along {axis}",
            lambda t, x, axis=axis: mb.topk(x=x, k=3, axis=axis),
            lambda x, axis=axis: _best(x, 3, axis),
            shapes=((5, 6),),
            make=_tied,
        )
        for axis in (-1, 0)
    ),
    moved(
        "topk",
        "of the least",
        lambda t, x: mb.topk(x=x, k=2, axis=-1, ascending=True),
        lambda x: (-_best(-x, 2, -1)[0], _best(-x, 2, -1)[1]),
        shapes=((5, 6),),
        make=_tied,
    ),
    moved(
        "argsort",
        "",
        lambda t, x: mb.argsort(x=x, axis=0, ascending=True),
        lambda x: np.argsort(x, axis=0, kind="stable"),
        shapes=((5, 6),),
        make=_tied,
    ),
    moved(
        "cumsum",
        "",
        lambda t, x: mb.cumsum(x=x, axis=-1),
        lambda x: np.cumsum(x, -1),
    ),
)


def _scattered(x: Array) -> Array:
    result: Array = x.copy()
    np.put_along_axis(result, np.array([[2, 0, 1, 1]]), np.array([[9, 8, 7, 6]]), 0)
    return result


CASES = (*MOVES, *PADS, *SLICES, *PICKS)
