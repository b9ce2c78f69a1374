"""Hold the tensors of a manifest to the graphs, and the graphs to the model."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from effsam_export.bundle import contract
from effsam_export.errors import CheckFailed
from effsam_export.pipeline.manifest_values import Difference
from effsam_export.spec.tensors import ReportedTensor, Signature

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from effsam_export.backends import Options
    from effsam_export.spec.model import ComponentSpec

KINDS = ("inputs", "outputs")


@dataclass(frozen=True, kw_only=True)
class Graphs:
    """What the files of one component say of its tensors.

    Attributes:
        artifact: As the runtime reports it; None if it does not open.
        source: Of the ONNX file that the artefact was converted from; None if it cannot be read.
        opset: ONNX opset of that file; None if it cannot be read.
    """

    artifact: Signature | None = None
    source: Signature | None = None
    opset: int | None = None


def read_source(path: Path) -> tuple[Signature | None, int | None]:
    """Return the inputs, outputs and opset of an ONNX file, without its weights.

    Both are None if the package `onnx` is not installed.

    Raises:
        CheckFailed: It is no ONNX file.
    """
    if find_spec("onnx") is None:
        return None, None
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
        weights = {t.name for t in model.graph.initializer}
        signature = Signature(
            inputs=tuple(_reported(v) for v in model.graph.input if v.name not in weights),
            outputs=tuple(_reported(v) for v in model.graph.output),
        )
    except Exception as error:
        raise CheckFailed(f"`{path.name}` of the source is not a readable ONNX file") from error
    return signature, max((o.version for o in model.opset_import if o.domain == ""), default=None)


def _reported(value: Any) -> ReportedTensor:  # noqa: ANN401 - a protobuf message
    import onnx

    tensor = value.type.tensor_type
    sizes = (d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return ReportedTensor(
        name=value.name,
        shape=tuple(sizes) if tensor.HasField("shape") else None,
        dtype=onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name,
    )


def tensor_failures(
    entry: Mapping[str, Any],
    spec: ComponentSpec | None,
    graphs: Graphs,
    options: Options,
    *,
    texts: bool,
) -> list[str]:
    """Return a sentence for each name, dtype, shape and description that is not the graph's.

    Args:
        entry: The component in the manifest.
        spec: The model's component; None if the model is unknown.
        graphs: The component's files.
        options: Target options; with `image_input`, Core ML takes the image as a picture.
        texts: Whether to compare descriptions too.
    """
    expected = None if spec is None else contract.tensors(spec, options)
    failures = []
    for kind in KINDS:
        path = f"components.{entry['name']}.{kind}"
        stated = [t["name"] for t in entry[kind]]
        sources = [
            ("the artefact", graphs.artifact and [t.name for t in getattr(graphs.artifact, kind)]),
            ("the source ONNX", graphs.source and [t.name for t in getattr(graphs.source, kind)]),
            ("the model", expected and [t["name"] for t in expected[kind]]),
        ]
        for whose, names in sources:
            # A runtime may have an order of its own; the model's is the contract's.
            ordered = whose == "the model"
            if names and (names if ordered else sorted(names)) != (
                stated if ordered else sorted(stated)
            ):
                difference = Difference(path=path, stated=stated, expected=names)
                failures.append(difference.sentence(whose))
                break
        documents = {} if expected is None else {t["name"]: t for t in expected[kind]}
        unnamed = iter([name for name in documents if name not in stated])
        for tensor in entry[kind]:
            name = tensor["name"]
            if documents and name not in documents:
                # A tensor of another name is held to the one that is missing in its place.
                name = next(unnamed, name)
            reports = [("the artefact", _tensor(graphs.artifact, kind, name))]
            # The source takes an array where Core ML takes a picture.
            if not (name == "image" and options.get("image_input")):
                reports.append(("the source ONNX", _tensor(graphs.source, kind, name)))
            document = documents.get(name)
            failures += _leaf_failures(f"{path}.{name}", tensor, reports, document, texts=texts)
    return failures


def _tensor(signature: Signature | None, kind: str, name: str) -> ReportedTensor | None:
    tensors: tuple[ReportedTensor, ...] = () if signature is None else getattr(signature, kind)
    return next((t for t in tensors if t.name == name), None)


def _leaf_failures(
    path: str,
    stated: Mapping[str, Any],
    reports: list[tuple[str, ReportedTensor | None]],
    document: Mapping[str, Any] | None,
    *,
    texts: bool,
) -> list[str]:
    """Return a sentence for each of dtype, shape and description that somebody contradicts."""
    failures = []
    claims: dict[str, list[tuple[str, object, bool]]] = {"dtype": [], "shape": []}
    for whose, tensor in reports:
        if tensor is not None:
            claims["dtype"].append((whose, tensor.dtype, tensor.dtype == stated["dtype"]))
            fits = fits_shape(stated["shape"], tensor.shape)
            claims["shape"].append((whose, listed(tensor.shape), fits))
    if document is not None:
        claims["dtype"].append(
            ("the model", document["dtype"], document["dtype"] == stated["dtype"])
        )
        same = names_axes(stated["shape"], document["shape"], sizes=not claims["shape"])
        claims["shape"].append(("the model", document["shape"], same))
        if texts:
            same = document["description"] == stated["description"]
            claims["description"] = [("the model", document["description"], same)]
    for key, said in claims.items():
        for whose, expected, agrees in said:
            if not agrees:
                difference = Difference(path=f"{path}.{key}", stated=stated[key], expected=expected)
                failures.append(difference.sentence(whose))
                break
    return failures


def listed(shape: tuple[int | None, ...] | None) -> list[int | str]:
    """Return a reported shape as a manifest writes it, without the names of dynamic axes."""
    return ["dynamic" if size is None else size for size in shape or ()]


def fits_shape(stated: list[int | str], reported: tuple[int | None, ...] | None) -> bool:
    """Return whether a shape of a manifest is a reported one; there, None is a dynamic axis."""
    if reported is None:
        return True
    return len(stated) == len(reported) and all(
        isinstance(ours, str) if theirs is None else ours == theirs
        for ours, theirs in zip(stated, reported, strict=True)
    )


def names_axes(stated: list[int | str], document: list[int | str], *, sizes: bool) -> bool:
    """Return whether a shape has the model's dynamic axes, and with `sizes` its numbers too."""
    return len(stated) == len(document) and all(
        ours == theirs if sizes or str in (type(ours), type(theirs)) else True
        for ours, theirs in zip(stated, document, strict=True)
    )


def graph_failures(spec: ComponentSpec, artifact: Signature, options: Options) -> Iterator[str]:
    """Yield a sentence for each tensor of an artefact that the model cannot feed or read."""
    documents = contract.tensors(spec, options)
    for kind in KINDS:
        reported = {t.name: t for t in getattr(artifact, kind)}
        wanted = {t["name"]: t for t in documents[kind]}
        for name in sorted(wanted.keys() - reported.keys()):
            yield f"{spec.name}: the graph has no `{name}` among its {kind}"
        for name in sorted(reported.keys() & wanted.keys()):
            tensor, document = reported[name], wanted[name]
            if tensor.dtype != document["dtype"] or not fits_shape(document["shape"], tensor.shape):
                yield (
                    f"{spec.name}: the graph's `{name}` is {tensor.dtype} "
                    f"{listed(tensor.shape)}, and this effsam runs the model with "
                    f"{document['dtype']} {document['shape']}"
                )
        if kind == "inputs":
            for name in sorted(reported.keys() - wanted.keys()):
                yield f"{spec.name}: the graph has an input `{name}` that the model has not"
