"""Reading valid and invalid packages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from effsam_export.backends.coreml.mil import evaluate, read
from effsam_export.backends.coreml.mil.program import Constant, Feature, TensorType
from effsam_export.errors import BundleError, UnknownNameError, UsageError
from tests.backends.coreml.mil import breaking
from tests.backends.coreml.mil.building import quiet, run, save

with quiet():
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.frontend.milproto.load import load as their_load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from effsam_export.backends.coreml.mil.package import Proto
    from tests.backends.coreml.mil.cases.case import Var

pytestmark = pytest.mark.backend

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)
X = np.array([[1, -2, 3, -4]], np.float32)


def linear(x: Var) -> Var:
    return mb.linear(x=x, weight=WEIGHT)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return save(tmp_path / "sound.mlpackage", [((1, 4), "float32")], linear)


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of two functions, `one` by default, that use the same names inside."""
    folder = tmp_path_factory.mktemp("functions")
    one = save(folder / "one.mlpackage", [((1, 4), "float32")], linear, "iOS18")
    two = save(
        folder / "two.mlpackage",
        [((2, 4), "float32")],
        lambda x: mb.relu(x=linear(mb.mul(x=x, y=np.float32(-1)))),
        "iOS18",
    )
    with quiet():
        wanted = ct.utils.MultiFunctionDescriptor()
        wanted.add_function(str(one), "main", "one")
        wanted.add_function(str(two), "main", "two")
        wanted.default_function_name = "one"
        ct.utils.save_multifunction(wanted, str(folder / "both.mlpackage"))
    return folder / "both.mlpackage"


def test_a_program_has_the_types_of_the_file(package: Path) -> None:
    program = read.load(package)
    assert (program.function, program.opset) == ("main", "CoreML7")
    assert program.inputs == (Feature(name="in0", type=TensorType(dtype="float32", shape=(1, 4))),)
    assert program.outputs == (
        Feature(name="out0", type=TensorType(dtype="float32", shape=(1, 3))),
    )


def test_ops_are_counted_without_constants(package: Path) -> None:
    assert read.count_ops(read.load(package)) == {"linear": 1, "identity": 1}


def test_elements_of_constants_are_counted_by_dtype(tmp_path: Path) -> None:
    def build(x: Var) -> Var:
        stored = mb.constexpr_affine_dequantize(
            quantized_data=np.ones((3, 4), np.int8),
            scale=np.float16(0.5),
            zero_point=np.int8(0),
            axis=np.int32(0),
        )
        return mb.softmax(x=mb.linear(x=x, weight=stored, bias=np.ones(3, np.float16)), axis=-1)

    package = save(tmp_path / "one.mlpackage", [((1, 4), "float16")], build)
    assert read.count_constants(read.load(package)) == {
        "int8": 12 + 1,
        "float16": 1 + 3,
        "int32": 1 + 1,
    }


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        (None, (1, 4), X @ WEIGHT.T),
        ("one", (1, 4), X @ WEIGHT.T),
        ("two", (2, 4), np.maximum(-X @ WEIGHT.T, 0).repeat(2, 0)),
    ],
)
def test_each_function_is_its_own_program(
    functions: Path, name: str | None, shape: tuple[int, ...], wanted: np.ndarray[Any, Any]
) -> None:
    program = read.load(functions, name)
    assert program.function == (name or "one")
    found = evaluate.run(program, {"in0": np.broadcast_to(X, shape)})
    np.testing.assert_allclose(found["out0"], wanted)


def test_a_missing_function_is_refused(functions: Path) -> None:
    with pytest.raises(UnknownNameError) as raised:
        read.load(functions, "three")
    assert raised.value.message == "unknown function `three`"
    assert raised.value.hint == "known: one, two"


# ------------------------------------------------------------------ pictures


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image input of 4x6 whose scale and bias are ops of the program."""
    import torch

    path = tmp_path_factory.mktemp("picture") / "picture.mlpackage"
    with quiet():
        traced = torch.export.export(torch.nn.ReLU(), (torch.zeros(1, 3, 4, 6),))
        model = ct.convert(
            traced.run_decompositions({}),
            inputs=[
                ct.ImageType(
                    name="image",
                    shape=(1, 3, 4, 6),
                    scale=0.5,
                    bias=[-1.0, -2.0, -3.0],
                    color_layout=ct.colorlayout.RGB,
                )
            ],
            outputs=[ct.TensorType(name="out")],
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
        model.save(str(path))
        del model
    return path


PIXELS = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
BIAS = np.array([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
SCALED = np.maximum(PIXELS.transpose(2, 0, 1)[None] * 0.5 - BIAS, 0)


@pytest.mark.parametrize(
    "fed", [PIXELS, PIXELS.transpose(2, 0, 1)[None].astype(np.float32)], ids=["uint8", "float32"]
)
def test_an_image_input_is_scaled_by_the_program(picture: Path, fed: np.ndarray[Any, Any]) -> None:
    program = read.load(picture)
    assert program.inputs[0].image
    np.testing.assert_array_equal(evaluate.run(program, {"image": fed})["out"], SCALED)


def test_an_image_of_another_size_is_refused(picture: Path) -> None:
    with pytest.raises(UsageError) as raised:
        evaluate.run(read.load(picture), {"image": PIXELS[:3]})
    assert raised.value.message == "`image` is float32 [1, 3, 3, 6], expected float32 [1, 3, 4, 6]"


def test_an_image_of_another_color_space_is_refused(picture: Path) -> None:
    def change(spec: Proto) -> None:
        spec.description.input[0].type.imageType.colorSpace = 30

    with pytest.raises(UsageError) as raised:
        read.load(breaking.edited(picture, change))
    assert raised.value.message == "the input `image` is an image that is not an RGB input"


# ------------------------------------------------------------------ refusals


def test_a_folder_without_a_manifest_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as raised:
        read.load(tmp_path)
    assert raised.value.message == (
        f"`{tmp_path.name}` is not a Core ML package: its manifest is missing or not valid"
    )


def test_a_manifest_that_names_no_model_is_refused(package: Path) -> None:
    (package / "Manifest.json").write_text(json.dumps({"itemInfoEntries": {}}))
    with pytest.raises(BundleError) as raised:
        read.load(package)
    assert raised.value.message == (
        "`sound.mlpackage` is not a Core ML package: its manifest is missing or not valid"
    )


def test_a_missing_model_is_refused(package: Path) -> None:
    (package / "Data" / "com.apple.CoreML" / "model.mlmodel").unlink()
    with pytest.raises(BundleError) as raised:
        read.load(package)
    assert raised.value.message == (
        "`sound.mlpackage` has no file `com.apple.CoreML/model.mlmodel`, which its manifest names"
    )


def test_a_model_that_is_no_protobuf_is_refused(package: Path) -> None:
    (package / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(b"\xff" * 40)
    with pytest.raises(BundleError, match=r"^`model\.mlmodel` cannot be read: "):
        read.load(package)


def _other_kind(spec: Proto) -> None:
    spec.neuralNetwork.SetInParent()


def _other_version(spec: Proto) -> None:
    spec.mlProgram.version = 2


def _other_opset(spec: Proto) -> None:
    breaking.main(spec).opset = "CoreML99"


def _no_block(spec: Proto) -> None:
    breaking.main(spec).opset = "CoreML6"


def _lost_output(spec: Proto) -> None:
    breaking.block(spec).outputs[0] = "elsewhere"


def _lost_operand(spec: Proto) -> None:
    breaking.operation(spec, "linear").inputs["x"].arguments[0].name = "elsewhere"


def _given_twice(spec: Proto) -> None:
    operations = breaking.block(spec).operations
    last = operations[-1]
    operations.add().CopyFrom(last)


def _control_flow(spec: Proto) -> None:
    breaking.operation(spec, "linear").blocks.add()


def _described_otherwise(spec: Proto) -> None:
    spec.description.output[0].name = "other"


def _described_in_half(spec: Proto) -> None:
    spec.description.input[0].type.multiArrayType.dataType = 65552


def _with_a_state(spec: Proto) -> None:
    spec.description.state.add().name = "memory"


def _unknown_rank(spec: Proto) -> None:
    breaking.operation(spec, "linear").outputs[0].type.tensorType.rank = -1


def _a_list(spec: Proto) -> None:
    breaking.operation(spec, "linear").outputs[0].type.listType.SetInParent()


def _too_few_values(spec: Proto) -> None:
    value = breaking.literal(spec, "linear", "bias")
    del value.immediateValue.tensor.floats.values[:]


def _of_another_dtype(spec: Proto) -> None:
    breaking.literal(spec, "linear", "bias").type.tensorType.dataType = 23


REFUSED: tuple[tuple[Callable[[Proto], None], type[Exception], str], ...] = (
    (_other_kind, UsageError, "`edited.mlpackage` is not an ML program but a neuralNetwork"),
    (_other_version, UsageError, "`edited.mlpackage` has a MIL program of version 2"),
    (_other_opset, UsageError, "`edited.mlpackage` uses the unknown opset `CoreML99`"),
    (_no_block, BundleError, "`edited.mlpackage` has no block for its opset `CoreML6`"),
    (_lost_output, BundleError, "`edited.mlpackage` does not compute its output `elsewhere`"),
    (
        _lost_operand,
        BundleError,
        "`linear` with output `linear_0` reads `x` from `elsewhere`, which no earlier op defines",
    ),
    (_given_twice, BundleError, "`identity` with output `out0` defines `out0` a second time"),
    (
        _control_flow,
        UsageError,
        "`linear` with output `linear_0` has blocks (control flow), which are not supported",
    ),
    (
        _described_otherwise,
        BundleError,
        "the package describes the outputs ['other'], but its function has ['out0']",
    ),
    (
        _described_in_half,
        BundleError,
        "the package describes its input `in0` as float16 [1, 4], "
        "but its function declares float32 [1, 4]",
    ),
    (_with_a_state, UsageError, "the model has the state `memory`, which is not supported"),
    (
        _unknown_rank,
        UsageError,
        "output `linear_0` of `linear` has a dynamic rank",
    ),
    (_a_list, UsageError, "output `linear_0` of `linear` is a listType, which is not supported"),
    (
        _too_few_values,
        BundleError,
        "`val` of `const` with output `linear_0_bias_0` declares float32 [3] but holds 0 elements",
    ),
    (
        _of_another_dtype,
        BundleError,
        "`val` of `const` with output `linear_0_bias_0` declares int32 [3] but holds floats",
    ),
)


@pytest.mark.parametrize(
    ("change", "error", "message"), REFUSED, ids=[row[0].__name__[1:] for row in REFUSED]
)
def test_an_invalid_package_is_refused(
    change: Callable[[Proto], None], error: type[Exception], message: str, tmp_path: Path
) -> None:
    package = save(
        tmp_path / "sound.mlpackage",
        [((1, 4), "float32")],
        lambda x: mb.linear(x=x, weight=WEIGHT, bias=np.arange(3, dtype=np.float32)),
    )
    with pytest.raises(error) as raised:
        read.load(breaking.edited(package, change))
    assert str(raised.value) == message


# ------------------------------------------------------------------ coremltools' own loader


def test_ops_and_constants_are_those_that_coremltools_loads(tmp_path: Path) -> None:
    """Compare ops, names and constants with coremltools' own reader, bit for bit."""
    rng = np.random.default_rng(0)

    def build(x: Var) -> Var:
        found = mb.conv(
            x=x, weight=rng.standard_normal((5, 3, 3, 3)).astype(np.float16), strides=(2, 1)
        )
        found = mb.gather(x=found, indices=np.array([3, 1], np.uint16), axis=1)
        return mb.cast(x=mb.gelu(x=found, mode="EXACT"), dtype="fp32")

    package = save(tmp_path / "one.mlpackage", [((1, 3, 8, 8), "float16")], build)
    program = read.load(package)
    with quiet():
        spec = ct.utils.load_spec(str(package))
        theirs = their_load(
            spec, spec.specificationVersion, str(breaking.weights(package).parent)
        ).functions["main"]

    assert [op.kind for op in program.operations] == [op.op_type for op in theirs.operations]
    constants = [op for op in theirs.operations if op.op_type == "const"]
    ours = [op for op in program.operations if op.kind == "const"]
    assert len(ours) > 10
    for mine, other in zip(ours, constants, strict=True):
        (value,) = mine.inputs["val"]
        assert isinstance(value, Constant)
        assert mine.outputs[0].name == other.outputs[0].name
        assert np.asarray(value.data).dtype == np.asarray(other.outputs[0].val).dtype
        np.testing.assert_array_equal(value.data, other.outputs[0].val)


def test_a_program_can_be_run_more_than_once(package: Path) -> None:
    first, second = run(package, X), run(package, X)
    np.testing.assert_array_equal(first[0], second[0])
