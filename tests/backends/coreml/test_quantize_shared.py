"""INT8 with shared weights, bias tables and several functions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("coremltools")
pytest.importorskip("torch")

from effsam_export.backends.coreml import backend as coreml
from effsam_export.backends.coreml import quantize as coreml_ptq
from effsam_export.backends.coreml.mil import read
from effsam_export.errors import CheckFailed
from effsam_export.spec.int8 import Int8Recipe, LayerOverride
from tests.backends.coreml import quantize_tools as tools
from tests.backends.coreml import tools as coreml_tools

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Graph

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tools.write(tmp_path_factory.mktemp("samples"), tools.as_feeds(tools.images(4)))


def test_layers_of_one_weight_share_its_treatment(samples: Path, tmp_path: Path) -> None:
    shared = tools.graph(tmp_path, tools.Twice())
    found = tools.lower(shared, tmp_path / "int8", tools.recipe(), samples)
    # 81 once, and the nine of the last layer stay as they are.
    assert coreml_ptq.weights_in_int8(tools.opened(found)) == 81
    with pytest.raises(CheckFailed, match="keeps every layer in floating point"):
        tools.lower(shared, tmp_path / "keep_float", tools.recipe(two="keep_float"), samples)


TABLE = 3 * 64 * 64


@pytest.mark.parametrize("scheme", ["weight_only", "w8a8"])
def test_a_table_of_attention_biases_is_quantized(
    samples: Path, scheme: str, tmp_path: Path
) -> None:
    graph = tools.graph(tmp_path, tools.Attention())
    found = tools.lower(graph, tmp_path / "out", tools.recipe(scheme), samples)
    program = tools.opened(found)
    # The constant that is added behind the attention is none.
    assert coreml_ptq.weights_in_int8(program) == TABLE + 81
    name = next(
        op.outputs[0].name
        for op in program.operations
        if op.kind.startswith("constexpr") and op.outputs[0].type.shape[-1] == 64
    )
    table = tools.Attention().get_buffer("table").numpy()
    integers = tools.constant(program, name, "quantized_data")
    scale = tools.constant(program, name, "scale").astype(np.float32)
    error = np.abs(integers * scale.reshape(3, 1, 1) - table).max((1, 2))
    assert (error < np.abs(table).max((1, 2)) / 127 * 0.65).all()
    picture = tools.images(1)[0]
    want = tools.values(tools.Attention(), picture)[""]
    got = coreml.open_session(found).run({"image": picture})["image_embeddings"]
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 0.02


def test_a_table_is_kept_with_its_module(samples: Path, tmp_path: Path) -> None:
    graph = tools.graph(tmp_path, tools.Attention())
    chosen = Int8Recipe(
        scheme="weight_only",
        overrides=(
            LayerOverride(modules=("mix",), treatment="weight_only", reason="For a test."),
            LayerOverride(modules=("",), treatment="keep_float", reason="For a test."),
        ),
    )
    found = tools.lower(graph, tmp_path / "out", chosen, samples)
    assert coreml_ptq.weights_in_int8(tools.opened(found)) == 81


# ------------------------------------------------------------------ functions


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return coreml_tools.decoder_graph(tmp_path_factory.mktemp("programs"), slots=8, further=(2,))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    feeds = coreml_tools.as_arrays(coreml_tools.decoder_feeds(8))
    return tools.write(tmp_path_factory.mktemp("prompts"), [dict(feeds)])


@pytest.mark.parametrize("scheme", ["weight_only", "w8a8"])
def test_functions_share_weights_and_ranges(
    decoder: Graph, prompts: Path, scheme: str, tmp_path: Path
) -> None:
    found = tools.lower(
        decoder, tmp_path / "out", tools.recipe(scheme), prompts, deployment_target="iOS18"
    )
    first, second = (tools.opened(found, name) for name in ("slots_8", "slots_2"))
    assert read.count_ops(first) == read.count_ops(second)
    assert ("quantize" in read.count_ops(first)) == (scheme == "w8a8")
    single = tools.lower(
        replace(decoder, variants=()),
        tmp_path / "single",
        tools.recipe(scheme),
        prompts,
        deployment_target="iOS18",
    )
    weights = [next(f for f in a.files if f.name == "weight.bin") for a in (found, single)]
    assert weights[0].stat().st_size <= weights[1].stat().st_size
    session = coreml.open_session(found)
    for slots in (8, 2):
        feeds = coreml_tools.as_arrays(coreml_tools.decoder_feeds(slots))
        assert session.run(feeds)["masks"].shape == (1, coreml_tools.MASKS)
