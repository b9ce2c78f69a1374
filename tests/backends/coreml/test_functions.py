"""A package with a function for each number of points, and shared weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("coremltools")
pytest.importorskip("torch")
import torch

from effsam_export.backends.coreml import backend as coreml
from effsam_export.backends.coreml import package as coreml_package
from effsam_export.backends.coreml.mil import read
from effsam_export.errors import UsageError
from effsam_export.spec.model import KeepFp32
from tests.backends.coreml import tools

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Artifact, Graph

pytestmark = pytest.mark.backend

NORM = KeepFp32(
    component="decoder", modules=("norm",), reason="It squares.", source="made up for tests"
)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    folder = tmp_path_factory.mktemp("programs")
    return tools.decoder_graph(folder, slots=8, further=(2, 4), recipe=(NORM,))


@pytest.fixture(scope="module")
def artifact(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("functions") / "out"
    return tools.lower(graph, folder, deployment_target="iOS18", functions="2 4")


def test_functions_by_name_and_the_default(artifact: Artifact) -> None:
    description = coreml_package.read_spec(coreml_package.package_of(artifact.files)).description
    assert [f.name for f in description.functions] == ["slots_8", "slots_2", "slots_4"]
    assert description.defaultFunctionName == "slots_8"
    assert description.metadata.userDefined["effsam.component"] == "decoder"


def test_each_function_is_described(artifact: Artifact) -> None:
    description = coreml_package.read_spec(coreml_package.package_of(artifact.files)).description
    for function in description.functions:
        assert [f.shortDescription for f in [*function.input, *function.output]] == [
            "(x, y) in pixels",
            "1 foreground",
            "logits",
            "predicted quality",
        ]


def test_weights_are_stored_once(artifact: Artifact, tmp_path: Path) -> None:
    single = tools.lower(
        tools.decoder_graph(tmp_path, slots=8, recipe=(NORM,)),
        tmp_path / "alone",
        deployment_target="iOS18",
    )
    three, one = (
        (coreml_package.package_of(a.files) / coreml_package.WEIGHTS).stat().st_size
        for a in (artifact, single)
    )
    assert one > 2 * tools.WIDTH * tools.MASKS
    # Less, if anything: equal biases of one function become one, too.
    assert 0.99 * one < three <= one
    assert artifact.tensors_by_dtype["float16"] == single.tensors_by_dtype["float16"]


@pytest.mark.parametrize("slots", [2, 4, 8])
def test_session_runs_the_function_with_the_number_of_slots(artifact: Artifact, slots: int) -> None:
    found = coreml.open_session(artifact).run(tools.as_arrays(tools.decoder_feeds(slots)))
    with torch.inference_mode():
        masks, iou = tools.Decoder().eval()(*tools.decoder_feeds(slots).values())
    np.testing.assert_allclose(found["masks"], masks.numpy(), atol=2e-2)
    np.testing.assert_allclose(found["iou"], iou.numpy(), atol=2e-2)


def test_one_session_changes_functions(artifact: Artifact) -> None:
    session = coreml.open_session(artifact)
    first = session.run(tools.as_arrays(tools.decoder_feeds(2)))["masks"]
    session.run(tools.as_arrays(tools.decoder_feeds(4)))
    again = session.run(tools.as_arrays(tools.decoder_feeds(2)))["masks"]
    np.testing.assert_array_equal(first, again)


def test_unknown_number_of_slots_is_refused(artifact: Artifact) -> None:
    with pytest.raises(UsageError) as caught:
        coreml.open_session(artifact).run(tools.as_arrays(tools.decoder_feeds(3)))
    message = caught.value.message
    assert message.startswith("the package takes {'point_coords': (1, 8, 2), 'point_labels'")
    assert message.endswith(
        "but the inputs are {'point_coords': (1, 3, 2), 'point_labels': (1, 3)}"
    )


def test_recipe_holds_in_every_function(artifact: Artifact) -> None:
    assert artifact.ops["layer_norm float32"] == 3
    assert "layer_norm" not in artifact.ops
    package = coreml_package.package_of(artifact.files)
    for name in ("slots_2", "slots_4", "slots_8"):
        norms = [o for o in read.load(package, name).operations if o.kind == "layer_norm"]
        assert [o.outputs[0].type.dtype for o in norms] == ["float32"]


def test_equal_bytes_every_time(graph: Graph, artifact: Artifact, tmp_path: Path) -> None:
    again = tools.lower(graph, tmp_path / "out", deployment_target="iOS18", functions="2 4")
    assert [f.read_bytes() for f in again.files] == [f.read_bytes() for f in artifact.files]


def test_precision_fp32(graph: Graph, tmp_path: Path) -> None:
    artifact = tools.lower(
        graph, tmp_path / "out", "fp32", deployment_target="iOS18", functions="2 4"
    )
    assert "float16" not in artifact.tensors_by_dtype
    assert artifact.ops["layer_norm"] == 3


@pytest.mark.parametrize("system", ["iOS16", "iOS17"])
def test_deployment_target_without_functions_is_refused(
    graph: Graph, system: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        tools.lower(graph, tmp_path / "out", deployment_target=system, functions="2 4")
    assert caught.value.message == (
        "a package of several functions needs iOS18, and the target's `deployment_target` is "
        f"{system}"
    )
    assert caught.value.hint == (
        'set the target option `deployment_target = "iOS18"`, or remove `functions`'
    )
    assert list((tmp_path / "out").iterdir()) == []


def test_functions_of_equal_shapes_are_refused(tmp_path: Path) -> None:
    """A model with a fixed number of points has the same shapes in every function."""
    graph = tools.decoder_graph(tmp_path, slots=4, further=(2,))
    assert graph.program is not None
    twice = replace(graph, variants=((2, graph.program),))
    with pytest.raises(UsageError) as caught:
        tools.lower(twice, tmp_path / "out", deployment_target="iOS18", functions="2")
    assert caught.value.message == (
        "`slots_4` and `slots_2` of the decoder have the same input shapes, and a function is "
        "chosen by its input shapes"
    )
    assert list((tmp_path / "out").iterdir()) == []
