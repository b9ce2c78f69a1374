"""A small network with a convolution, a depthwise one, a product of activations and two layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from effsam_export.spec.int8 import Int8Recipe, Quantization

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.spec.int8 import Treatment

SIZE = 16
CHANNELS = 64


def weights() -> dict[str, NDArray[np.float32]]:
    """The constants of the network, the same at every call."""
    generator = np.random.default_rng(0)
    shapes = {
        "stem_w": (CHANNELS, 3, 3, 3),
        "stem_b": (CHANNELS,),
        "deep_w": (CHANNELS, 1, 3, 3),
        "fc1_w": (CHANNELS, 2 * CHANNELS),
        "fc2_w": (2 * CHANNELS, CHANNELS),
    }
    return {
        name: (generator.standard_normal(shape) / np.sqrt(float(np.prod(shape[1:])))).astype(
            np.float32
        )
        for name, shape in shapes.items()
    }


def network() -> onnx.ModelProto:
    """image 1x3x16x16 -> out 1x64x64; nodes `stem`, `deep`, `fc1`, `fc2`, `product`."""
    nodes = [
        helper.make_node("Conv", ["image", "stem_w", "stem_b"], ["a"], name="stem", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "deep_w"], ["c"], name="deep", pads=[1] * 4, group=CHANNELS),
        helper.make_node("Reshape", ["c", "flat"], ["d"], name="reshape"),
        helper.make_node("Transpose", ["d"], ["e"], name="transpose", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["e", "fc1_w"], ["f"], name="fc1"),
        helper.make_node("Relu", ["f"], ["g"], name="relu2"),
        helper.make_node("MatMul", ["g", "fc2_w"], ["h"], name="fc2"),
        helper.make_node("MatMul", ["d", "h"], ["out"], name="product"),
    ]
    constants = [numpy_helper.from_array(v, k) for k, v in weights().items()]
    constants.append(numpy_helper.from_array(np.array([1, CHANNELS, SIZE * SIZE]), "flat"))
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, CHANNELS, CHANNELS])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def quantization(
    folder: Path, treatments: dict[str, Treatment], recipe: Int8Recipe | None = None
) -> Quantization:
    """Three samples, and these treatments."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(1)
    for i in range(3):
        image = generator.uniform(-1, 1, (1, 3, SIZE, SIZE)).astype(np.float32)
        np.savez(folder / f"{i:04}.npz", image=image)
    return Quantization(
        recipe=recipe or Int8Recipe(scheme="w8a8"), samples=folder, treatments=treatments
    )


ALL: dict[str, Treatment] = dict.fromkeys(("stem", "deep", "fc1", "fc2"), "w8a8")
