"""INT8 in .tflite files: which layer gets what, what stays floating, and what is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("litert_torch")
pytest.importorskip("ai_edge_litert")
pytest.importorskip("ai_edge_quantizer")
import torch
from torch import Tensor, nn

from effsam_export.backends import tflite, tflite_convert, tflite_file
from effsam_export.backends.tflite_session import InterpreterSession
from effsam_export.errors import CheckFailed, UsageError
from effsam_export.quantize import tflite_bias, tflite_layers, tflite_ptq
from effsam_export.quantize.plan import Exception8, Int8Recipe, Quantization
from tests.backends.tflite_tools import HandMade, component, save_program, target

if TYPE_CHECKING:
    from pathlib import Path

    from ai_edge_litert import schema_py_generated as schema

    from effsam_export.quantize.plan import Scheme, Treatment
    from effsam_export.spec import Graph

pytestmark = pytest.mark.backend

SIDE, CHANNELS, HEADS = 8, 16, 2
TOKENS = SIDE * SIDE
IMAGE = (1, 3, SIDE, SIDE)
SPEC = component({"image": IMAGE}, {"image_embeddings": (1, TOKENS, CHANNELS)}, "encoder")
SIZES: dict[str, int] = {
    "stem": CHANNELS * 3 * 9,
    "deep": CHANNELS * 9,
    "block.qkv": 3 * CHANNELS * CHANNELS,
    "block.proj": CHANNELS * CHANNELS,
    "block.fc": CHANNELS * CHANNELS,
}
"""Elements of the weights of `Layers`."""
TABLE = HEADS * TOKENS * TOKENS


class Block(nn.Module):
    """Attention with a position bias, and a linear layer behind a LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS)
        self.proj = nn.Linear(CHANNELS, CHANNELS)
        self.norm = nn.LayerNorm(CHANNELS)
        self.fc = nn.Linear(CHANNELS, CHANNELS)
        self.bias = nn.Parameter(torch.randn(HEADS, TOKENS, TOKENS))

    def forward(self, x: Tensor) -> Tensor:
        split = self.qkv(x).reshape(1, TOKENS, HEADS, 3 * CHANNELS // HEADS).permute(0, 2, 1, 3)
        q, k, v = split.chunk(3, dim=-1)
        attended = torch.softmax(q @ k.transpose(-2, -1) + self.bias, dim=-1) @ v
        x = x + self.proj(attended.transpose(1, 2).reshape(1, TOKENS, CHANNELS))
        done: Tensor = self.fc(self.norm(x))
        return done


class Layers(nn.Module):
    """One layer of each kind that encoders have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.deep = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)
        self.block = Block()

    def forward(self, image: Tensor) -> Tensor:
        x = self.deep(torch.relu(self.stem(image)))
        done: Tensor = self.block(x.flatten(2).transpose(1, 2))
        return done


def layers() -> Layers:
    """The layers with the same numbers at each call, and LayerNorm's factors far apart."""
    torch.manual_seed(0)
    made = Layers().eval()
    with torch.no_grad():
        made.block.norm.weight.copy_(torch.logspace(-2, 2, CHANNELS) * (-1) ** torch.arange(16))
        made.block.norm.bias.copy_(torch.randn(CHANNELS))
    return made


def image(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=IMAGE).astype(np.float32)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """The traced layers."""
    return save_program(layers(), SPEC, tmp_path_factory.mktemp("traced") / "encoder.pt2")


@pytest.fixture(scope="module")
def converted(graph: Graph) -> bytes:
    """The layers in FP32."""
    assert graph.program is not None
    return tflite_convert.convert(graph.program, SPEC)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three inputs, as a folder of samples."""
    folder = tmp_path_factory.mktemp("samples")
    for i in range(3):
        np.savez(folder / f"{i:04}.npz", image=image(i))
    return folder


def recipe(scheme: Scheme = "w8a8", **treated: str) -> Int8Recipe:
    """A recipe; `w8="deep stem"` treats these modules so. Keys are `w8` and `float`."""
    asked: dict[str, Treatment] = {"w8": "w8", "float": "float"}
    return Int8Recipe(
        scheme=scheme,
        exceptions=tuple(
            Exception8(modules=tuple(v.split()), treatment=asked[k], reason="a test")
            for k, v in treated.items()
        ),
    )


def quantized(
    converted: bytes, graph: Graph, folder: Path, asked: Int8Recipe
) -> tuple[bytes, schema.ModelT]:
    assert graph.program is not None
    plan = Quantization(recipe=asked, samples=folder)
    content = tflite_ptq.quantize(converted, graph.program, plan, SPEC)
    return content, tflite_file.parse(content)


def weights(model: schema.ModelT) -> Counter[tuple[str, str, bool]]:
    """How often an operator has weights of a type, and whether they come from a DEQUANTIZE."""
    (subgraph,) = model.subgraphs
    unpacked = {
        o.outputs[0]: o.inputs[0]
        for o in subgraph.operators
        if tflite_file.operator_name(model, o) == "DEQUANTIZE"
    }
    found = Counter[tuple[str, str, bool]]()
    for operator in subgraph.operators:
        kind = tflite_file.operator_name(model, operator)
        if kind in tflite_layers.WEIGHTS:
            index = operator.inputs[1]
            stored = subgraph.tensors[unpacked.get(index, index)]
            found[kind, tflite_file.dtype_name(stored), index in unpacked] += 1
    return found


def answer(content: bytes, path: Path) -> np.ndarray:
    path.write_bytes(content)
    return InterpreterSession(path, "encoder", 1).run({"image": image()})["image_embeddings"]


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Length of the difference for one of the answer."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def wanted() -> np.ndarray:
    with torch.no_grad():
        return np.asarray(layers()(torch.from_numpy(image())).numpy())


# ------------------------------------------------------------------ which layer is which


def test_each_layer_is_found_by_its_weights(graph: Graph, converted: bytes) -> None:
    assert graph.program is not None
    model = tflite_file.parse(converted)
    found = tflite_layers.find(model, tflite_layers.of_program(graph.program))
    kinds = {
        layer.modules[-1]: tflite_file.operator_name(model, model.subgraphs[0].operators[i])
        for i, layer in found.items()
    }
    assert kinds == {
        "stem": "CONV_2D",
        "deep": "DEPTHWISE_CONV_2D",
        "block.qkv": "FULLY_CONNECTED",
        "block.proj": "FULLY_CONNECTED",
        "block.fc": "FULLY_CONNECTED",
    }
    assert all(layer.rows.size == SIZES[layer.modules[-1]] for layer in found.values())


def test_order_does_not_matter(graph: Graph, converted: bytes) -> None:
    assert graph.program is not None
    model, rows = tflite_file.parse(converted), tflite_layers.of_program(graph.program)
    straight, turned = (tflite_layers.find(model, r) for r in (rows, rows[::-1]))
    assert {i: x.modules for i, x in straight.items()} == {i: x.modules for i, x in turned.items()}


def test_a_layer_that_is_not_there_is_refused(graph: Graph, converted: bytes) -> None:
    assert graph.program is not None
    first, *rest = tflite_layers.of_program(graph.program)
    other = replace(first, rows=np.roll(first.rows, 1, axis=0))
    with pytest.raises(CheckFailed, match=r"1 of 5 layers .* not in the \.tflite file.*`stem`"):
        tflite_layers.find(tflite_file.parse(converted), [other, *rest])


def test_factors_are_taken_out_and_the_file_computes_the_same(
    graph: Graph, converted: bytes, tmp_path: Path
) -> None:
    assert graph.program is not None
    model = tflite_file.parse(converted)
    found = tflite_layers.find(model, tflite_layers.of_program(graph.program))
    before = tflite_file.count_operators(model)
    tflite_layers.unfold(model, found)
    after = tflite_file.count_operators(model)
    assert {k: v - before[k] for k, v in after.items() if v != before[k]} == {"MUL": 1}
    assert error(answer(tflite_file.serialise(model), tmp_path / "m.tflite"), wanted()) < 1e-5
    stored = [tflite_layers.rows_of_file(model, o) for o in model.subgraphs[0].operators]
    own = layers().block.fc.weight.detach().numpy()
    assert any(rows is not None and np.array_equal(rows, own) for rows in stored)


# ------------------------------------------------------------------ treatments


@pytest.mark.parametrize(
    ("asked", "expected", "int8"),
    [
        (
            recipe(),
            {
                ("CONV_2D", "int8", False): 1,
                # XNNPACK has none that takes floating activations.
                ("DEPTHWISE_CONV_2D", "int8", True): 1,
                ("FULLY_CONNECTED", "int8", False): 3,
            },
            sum(SIZES.values()) + TABLE,
        ),
        (
            recipe("w8"),
            {
                ("CONV_2D", "int8", True): 1,
                ("DEPTHWISE_CONV_2D", "int8", True): 1,
                ("FULLY_CONNECTED", "int8", True): 3,
            },
            sum(SIZES.values()) + TABLE,
        ),
        (
            recipe(float="deep", w8="stem block.fc"),
            {
                ("CONV_2D", "int8", True): 1,
                ("DEPTHWISE_CONV_2D", "float16", True): 1,
                ("FULLY_CONNECTED", "int8", True): 1,
                ("FULLY_CONNECTED", "int8", False): 2,
            },
            sum(SIZES.values()) - SIZES["deep"] + TABLE,
        ),
        (
            recipe(float="*"),
            {
                ("CONV_2D", "float16", True): 1,
                ("DEPTHWISE_CONV_2D", "float16", True): 1,
                ("FULLY_CONNECTED", "float16", True): 3,
            },
            0,
        ),
        (
            recipe("fp32"),
            {
                ("CONV_2D", "float32", False): 1,
                ("DEPTHWISE_CONV_2D", "float32", False): 1,
                ("FULLY_CONNECTED", "float32", False): 3,
            },
            0,
        ),
    ],
    ids=["w8a8", "w8", "mixed", "float", "fp32"],
)
def test_treatments(
    converted: bytes,
    graph: Graph,
    tmp_path: Path,
    asked: Int8Recipe,
    expected: dict[tuple[str, str, bool], int],
    int8: int,
) -> None:
    content, model = quantized(converted, graph, tmp_path, asked)
    assert weights(model) == expected
    counts = tflite_file.count_constants(model)
    assert counts.get("int8", 0) == int8
    if asked.scheme != "fp32":
        biases = 6 * CHANNELS + CHANNELS
        assert biases <= counts["float32"] <= biases + 4
    assert not tflite_file.signature_faults(model, "encoder", SPEC.inputs, SPEC.outputs)
    assert error(answer(content, tmp_path / "m.tflite"), wanted()) < 0.03


def test_products_of_activations_stay_floating(
    converted: bytes, graph: Graph, tmp_path: Path
) -> None:
    _, model = quantized(converted, graph, tmp_path, recipe())
    (subgraph,) = model.subgraphs
    products = [
        o for o in subgraph.operators if tflite_file.operator_name(model, o) == "BATCH_MATMUL"
    ]
    assert len(products) == 2
    for operator in products:
        tensors = [subgraph.tensors[i] for i in (*operator.inputs, *operator.outputs)]
        assert {tflite_file.dtype_name(t) for t in tensors} == {"float32"}
    assert "QUANTIZE" not in tflite_file.count_operators(model)


def test_weights_have_a_scale_for_each_channel_and_no_zero(
    converted: bytes, graph: Graph, tmp_path: Path
) -> None:
    _, model = quantized(converted, graph, tmp_path, recipe(float="deep"))
    for operator in model.subgraphs[0].operators:
        if tflite_file.operator_name(model, operator) in ("CONV_2D", "FULLY_CONNECTED"):
            weight = model.subgraphs[0].tensors[operator.inputs[1]]
            assert len(weight.quantization.scale) == tflite_file.shape_of(weight)[0]
            assert not np.any(weight.quantization.zeroPoint)


def test_equal_arguments_give_equal_bytes(converted: bytes, graph: Graph, samples: Path) -> None:
    for asked in (recipe(w8="stem"), replace(recipe(), everything=True)):
        first, second = (quantized(converted, graph, samples, asked)[0] for _ in range(2))
        assert first == second


# ------------------------------------------------------------------ everything


def test_everything_is_int8_but_the_ends(
    converted: bytes, graph: Graph, samples: Path, tmp_path: Path
) -> None:
    asked = replace(recipe(float="deep"), everything=True)
    content, model = quantized(converted, graph, samples, asked)
    assert not tflite_file.signature_faults(model, "encoder", SPEC.inputs, SPEC.outputs)
    (subgraph,) = model.subgraphs
    for operator in subgraph.operators:
        if tflite_file.operator_name(model, operator) in ("BATCH_MATMUL", "SOFTMAX"):
            tensors = [subgraph.tensors[i] for i in (*operator.inputs, *operator.outputs)]
            assert {tflite_file.dtype_name(t) for t in tensors} == {"int8"}
    assert weights(model)["DEPTHWISE_CONV_2D", "float16", True] == 1
    assert np.isfinite(answer(content, tmp_path / "m.tflite")).all()


def test_everything_needs_samples(converted: bytes, graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="static INT8 needs samples"):
        quantized(converted, graph, tmp_path, replace(recipe(), everything=True))


def test_everything_takes_only_least_and_largest(
    converted: bytes, graph: Graph, samples: Path
) -> None:
    asked = replace(recipe(), everything=True, method="mse")
    with pytest.raises(UsageError, match="by `minmax`, not `mse`"):
        quantized(converted, graph, samples, asked)


# ------------------------------------------------------------------ tables


def test_steps_are_fine_and_keep_zero() -> None:
    values = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    values[0, 1] = 0
    values[0, 2] -= 30
    rounded, scales, zeros = tflite_bias.in_steps(values, 1)
    back = (rounded.astype(np.float32) - zeros[:, None, None]) * scales[:, None, None]
    assert (np.abs(back - values) <= scales[:, None, None] * 0.501).all()
    assert not back[0, 1].any()
    assert rounded.dtype == np.int8
    assert zeros.dtype == np.int64


@pytest.mark.parametrize(
    ("shape", "kind", "found"),
    [
        ((1, 2, 32, 32), "SOFTMAX", True),
        ((1, 2, 8, 8), "SOFTMAX", False),
        ((1, 2, 32, 32), "TANH", False),
    ],
    ids=["table", "small", "no scores"],
)
def test_only_large_tables_of_scores_shrink(
    shape: tuple[int, ...], kind: str, *, found: bool
) -> None:
    made = HandMade()
    table = np.linspace(-4, 1, int(np.prod(shape)), dtype=np.float32)
    ends = made.tensor("x", shape), made.tensor("table", shape, value=table)
    total, out = made.tensor("sum", shape), made.tensor("out", shape)
    made.operator("ADD", ends, total)
    made.operator(kind, [total], out)
    assert tflite_bias.shrink(made.model) == (("table",) if found else ())
    counts = tflite_file.count_constants(made.model)
    assert counts == {"int8" if found else "float32": table.size}
    # The table is made before it is added.
    names = list(tflite_file.count_operators(made.model))
    assert ("DEQUANTIZE" in names) == found
    if found:
        first = made.graph.operators[0]
        assert tflite_file.operator_name(made.model, first) == "DEQUANTIZE"


# ------------------------------------------------------------------ the backend


def test_the_backend_quantizes_what_is_asked(graph: Graph, tmp_path: Path) -> None:
    profile = replace(target("tflite", "fp32"), precision="int8")
    plan = Quantization(recipe=recipe(w8="stem", float="deep"), samples=tmp_path)
    artifact = tflite.lower(replace(graph, quantization=plan), profile, tmp_path)
    assert artifact.precision == "int8"
    expected = sum(SIZES.values()) - SIZES["deep"] + TABLE
    assert artifact.tensors_by_dtype["int8"] == expected
    found = tflite.open_session(artifact).run({"image": image()})["image_embeddings"]
    assert error(found, wanted()) < 0.03
