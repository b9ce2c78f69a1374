"""Lying manifests: a value of an honest bundle is changed, and every hash is made to fit.

Each lie knows how a failure of `verify` has to name it. Nothing here imports pytest: the generators
are functions of a `random.Random`, for tests and for fuzzing.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export._version import __version__
from effsam_export.bundle import v3

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

V3 = Path(__file__).resolve().parents[1] / "bundle" / "v3"
Keys = tuple[str | int, ...]
RULES = ("preprocess", "prompts", "masks")
OTHER_HASH = hashlib.sha256(b"another checkpoint").hexdigest()
UNPROVABLE: dict[str, tuple[Keys, object]] = {
    # What it would take to prove it -> the value, and another one.
    "the checkpoint's own name": (("checkpoint", "file_name"), "other.pt"),
    "the checkpoint (--checkpoint)": (("checkpoint", "sha256"), OTHER_HASH),
    "an older package of the target": (("target", "profile_sha256"), OTHER_HASH),
    "a second export: passes": (("components", 0, "rewrites"), ["nothing"]),
    "a second export: recipe": (("precision", "keep_fp32"), []),
    "a second export: tools": (("tools", "torch"), "1.0"),
    "the evaluation images: minimum": (("parity", "min_mask_iou"), 0.9999),
    "the evaluation images: mean": (("parity", "mean_mask_iou"), 0.9999),
    "the evaluation images: score": (("parity", "max_score_error"), 0.0001),
    "the evaluation images: count": (("parity", "cases"), 77),
    "an older package of the runtime": (("runtime", "versions"), ">=1"),
}
"""Values that `verify` does not hold to anything without the checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Lie:
    """One changed value.

    Attributes:
        where: `manifest` or `golden`: the document that holds it.
        keys: Path of the value in that document.
        value: What it becomes.
        named: Text that a failure has to hold.
    """

    where: str = "manifest"
    keys: Keys
    value: object
    named: str

    def tell(self, documents: dict[str, Any]) -> None:
        """Change the value in the documents of a bundle."""
        holder = documents[self.where]
        for key in self.keys[:-1]:
            holder = holder[key]
        holder[self.keys[-1]] = copy.deepcopy(self.value)


def leaves(value: object, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Yield every value of a JSON document that holds no other, and every list."""
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*keys, key))
        return
    yield keys, value
    if isinstance(value, list):
        for i, inner in enumerate(value):
            yield from leaves(inner, (*keys, i))


def others(value: object) -> list[Any]:
    """Return values of the same kind that differ from a value."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value * 2 + 3]
    if isinstance(value, float):
        return [value + 0.5, value * 2 + 1.5, -value - 3.5]
    if isinstance(value, str):
        return [f"{value} ", value[:-1], "something else"]
    if isinstance(value, list):
        return [value[:-1], [*value, *value[:1]]] if value else [[0]]
    return [7, "something"]


def path_of(keys: Keys) -> str:
    """Return keys as a failure writes them: `preprocess.range[0]`."""
    text = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in keys)
    return text.removeprefix(".")


def rules(manifest: dict[str, Any]) -> Iterator[Lie]:
    """Yield lies about preprocessing, prompts and masks: every value."""
    for part in RULES:
        for keys, value in leaves(manifest[part], (part,)):
            for other in others(value):
                yield Lie(keys=keys, value=other, named=f"`{path_of(keys)}")


def model(manifest: dict[str, Any]) -> Iterator[Lie]:
    """Yield lies about the model and its licence: every value, and options it has not."""
    for keys, value in leaves(manifest["model"], ("model",)):
        for other in others(value):
            named = "`model`" if keys[-1] == "name" else f"`{path_of(keys)}"
            if keys[-1] == "file":
                # A path has to be one of a file in the bundle.
                other, named = manifest["parity"]["file"], "`model.licence.file`"
            yield Lie(keys=keys, value=other, named=named)
    for spdx in ("CC0-1.0", "MIT", "Apache-2.0-with-exception", ""):
        yield Lie(keys=("model", "licence", "spdx"), value=spdx, named="`model.licence.spdx`")
    for options in ({"k": 3}, {"location": 1e300}, {"": 0}):
        yield Lie(keys=("model", "options"), value=options, named="`model`")


def tensors(manifest: dict[str, Any]) -> Iterator[Lie]:
    """Yield lies about the inputs and outputs: names, dtypes, shapes and descriptions."""
    for i, component in enumerate(manifest["components"]):
        for kind in ("inputs", "outputs"):
            path = f"components.{component['name']}.{kind}"
            for j, tensor in enumerate(component[kind]):
                at: Keys = ("components", i, kind, j)
                named = f"`{path}.{tensor['name']}"
                for name in (f"{tensor['name']}s", f"other_{j}"):
                    yield Lie(keys=(*at, "name"), value=name, named=f"`{path}` is")
                for dtype in ("uint8", "int64", "float16"):
                    yield Lie(keys=(*at, "dtype"), value=dtype, named=f"{named}.dtype`")
                for shape in others(tensor["shape"]):
                    yield Lie(keys=(*at, "shape"), value=shape, named=f"{named}.shape`")
                for k, size in enumerate(tensor["shape"]):
                    for wrong in ("batch", 5 if size != 5 else 6):
                        yield Lie(keys=(*at, "shape", k), value=wrong, named=f"{named}.shape`")
                for text in others(tensor["description"]):
                    yield Lie(keys=(*at, "description"), value=text, named=f"{named}.description`")
            shorter = component[kind][:-1]
            if shorter:
                yield Lie(keys=("components", i, kind), value=shorter, named=f"`{path}` is")


def claims(manifest: dict[str, Any]) -> Iterator[Lie]:
    """Yield lies about the checkpoint, the target, the precision, the state and the gates."""
    empty = hashlib.sha256().hexdigest()
    for sha256 in ("0" * 64, "f" * 64, "1" * 64, empty):
        yield Lie(keys=("checkpoint", "sha256"), value=sha256, named="`checkpoint.sha256`")
    yield Lie(keys=("checkpoint", "official"), value=True, named="`checkpoint.official`")
    target = manifest["target"]
    for opset in (target["opset"] + 1, 7):
        yield Lie(keys=("target", "opset"), value=opset, named="`target.opset`")
    for name in ("openvino", "tflite", "coreml"):
        yield Lie(keys=("target", "name"), value=name, named="`target.backend`")
    for state in ("simulated", "verified on device"):
        yield Lie(keys=("state",), value=state, named="`state`")
    yield Lie(keys=("simulator",), value="a simulator", named="`state`")
    for runtime in others(manifest["runtime"]["name"]):
        yield Lie(keys=("runtime", "name"), value=runtime, named="`runtime.name`")
    for precision in ("fp16", "int8"):
        named = "`precision.requested`"
        yield Lie(keys=("precision", "requested"), value=precision, named=named)
    for key in ("elements_by_dtype", "ops_by_type"):
        for keys, value in leaves(manifest["precision"][key], ("precision", key)):
            yield Lie(keys=keys, value=value + 1, named=f"`{path_of(keys)}`")
    yield from gates(manifest)


def gates(manifest: dict[str, Any]) -> Iterator[Lie]:
    """Yield looser gates, and looser tolerances of the golden vectors."""
    looser = {
        "mask_iou": (0.0, 0.5, 0.99, -1.0),
        "cosine": (0.0, 0.9, 0.999, -1.0),
        "score_error": (1.0, 0.01, 1e9, 0.0011),
    }
    for key, values in looser.items():
        for value in values:
            if key in manifest["gates"]:
                yield Lie(keys=("gates", key), value=value, named=f"`gates.{key}`")
            if key != "cosine" and value >= 0:
                yield Lie(
                    where="golden",
                    keys=("tolerances", key),
                    value=value,
                    named=f"`tolerances.{key}`",
                )


def golden(document: dict[str, Any]) -> Iterator[Lie]:
    """Yield lies about which masks a user gets, that leave every other value as it is."""
    for i, case in enumerate(document["cases"]):
        wrong: tuple[list[int], ...] = ([0], [0, 1], [1, 2, 3], [*case["answers"], 2])
        for answers in wrong:
            if answers != case["answers"] and max(answers) < len(case["masks"]):
                yield Lie(
                    where="golden",
                    keys=("cases", i, "answers"),
                    value=answers,
                    named=f"golden {case['name']}: `answers`",
                )


def lies(documents: dict[str, Any]) -> list[Lie]:
    """Return every lie about a bundle."""
    manifest = documents["manifest"]
    return [
        *rules(manifest),
        *model(manifest),
        *tensors(manifest),
        *claims(manifest),
        *golden(documents["golden"]),
    ]


def combined(chance: random.Random, documents: dict[str, Any], count: int) -> list[Lie]:
    """Return some lies that can be told at once: none about what another one changes."""
    chosen: list[Lie] = []
    for lie in chance.sample(all_lies := lies(documents), len(all_lies)):
        apart = not any(meet(lie, other) for other in chosen)
        # Without a model there is nothing to hold the rest to.
        if apart and lie.named != "`model`" and len(chosen) < count:
            chosen.append(lie)
    return chosen


def honest(name: str, folder: Path) -> Path:
    """Unpack a bundle of an earlier release, and write its manifest as this version would.

    Args:
        name: Of a file in `tests/bundle/v3`.
        folder: Gets the bundle's directory.
    """
    with tarfile.open(V3 / f"{name}.tar.xz") as file:
        file.extractall(folder, filter="data")
    documents = read(folder / name)
    documents["manifest"] = v3.upgraded(documents["manifest"])
    documents["manifest"]["tools"]["effsam-export"] = __version__
    write(folder / name, documents)
    return folder / name


def meet(one: Lie, other: Lie) -> bool:
    """Whether one lie changes what another is about, so that both may not be lies any more."""
    depth = min(len(one.keys), len(other.keys))
    if one.where == other.where and one.keys[:depth] == other.keys[:depth]:
        return True
    subjects = {one.keys[0], other.keys[0]}
    # Golden vectors are not read where the manifest refuses their prompts or masks.
    if one.where != other.where and subjects & {"prompts", "masks"}:
        return True
    # The precision selects the gates, and a simulator goes with the state.
    return subjects in (
        {"precision", "gates"},
        {"precision", "tolerances"},
        {"state", "simulator"},
    )


def read(bundle: Path) -> dict[str, Any]:
    """Return the documents of a bundle that a lie may change."""
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    return {
        "manifest": manifest,
        "golden": json.loads((bundle / manifest["golden"]).read_text("utf-8")),
    }


def write(bundle: Path, documents: dict[str, Any]) -> None:
    """Write changed documents, and list every file as it is now."""
    manifest = documents["manifest"]
    (bundle / manifest["golden"]).write_text(json.dumps(documents["golden"]), "utf-8")
    for entry in manifest["files"]:
        content = (bundle / entry["path"]).read_bytes()
        entry.update(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    (bundle / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def with_lies(honest: dict[str, Any], *chosen: Lie) -> dict[str, Any]:
    """Return the documents with the lies; the honest ones stay as they are."""
    documents = copy.deepcopy(honest)
    for lie in chosen:
        lie.tell(documents)
    return documents
