"""Write a web page that segments with a bundle, for `effsam code --language js --app`.

It is a folder of files for any web server: the page, a worker with the model, a service worker that
keeps all of it for use without a network, and the graphs.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effsam_export.bundle import read, staging
from effsam_export.errors import BundleError, UsageError, joined
from effsam_export.integrate import javascript, render
from effsam_export.integrate.contract import contract_of, finds_instances
from effsam_export.integrate.fingerprint import fingerprint
from effsam_export.integrate.write import check_free, log_code, refuse_layout
from effsam_export.util.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from effsam_export.integrate.contract import Contract

RUN = "npm install; node serve.mjs"
SCRIPTS = ("app.mjs", "worker.mjs", "sw.js", "serve.mjs")
FP16 = "fp16"
MODELS = "models"


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A bundle of the page, and what runs it.

    Attributes:
        device: `webgpu` or `wasm`, as onnxruntime-web names its execution providers.
        path: Directory of the bundle.
        manifest: Of the bundle.
        files: The graphs, the encoder's first.
    """

    device: str
    path: Path
    manifest: Mapping[str, Any]
    files: tuple[str, ...]


def app_for(paths: Sequence[Path], output: Path, *, force: bool = False) -> tuple[str, ...]:
    """Write the page of one bundle, or of one for WebGPU and one for WebAssembly.

    A bundle in FP16 runs on WebGPU where the browser has FP16 shaders, another one on WebAssembly;
    so does a bundle in FP16 that is alone, elsewhere.

    Args:
        paths: Directories of one or two bundles.
        output: The folder.
        force: Replace the files of an earlier call in `output`; others are never changed.

    Returns:
        Names of the files.

    Raises:
        BundleError: A bundle cannot be read, or is not intact.
        OutputError: The folder is not free, or cannot be written.
        UsageError: The bundles do not belong together, or cannot run in a browser.
    """
    backends = backends_of(paths)
    contract = contract_of(backends[0].manifest)
    texts = texts_of(contract, backends)
    log_code(backends[0].manifest, texts)
    models = {f"{MODELS}/{b.device}/{name}": b.path / name for b in backends for name in _copied(b)}
    check_free(output, texts, force=force)
    if output.is_dir() and any(output.iterdir()):
        _write(texts, models, output)
    else:
        with staging.staged(output) as work:
            _write(texts, models, work)
    return (*texts, *models)


def backends_of(paths: Sequence[Path]) -> list[Backend]:
    """Return what runs each bundle, that for WebGPU first.

    Raises:
        BundleError: A bundle cannot be read, or is not intact.
        UsageError: The bundles do not belong together, or cannot run in a browser.
    """
    found = []
    for path in paths:
        bundle = read.read(path)
        broken = read.integrity(bundle)
        if broken:
            raise BundleError(f"bundle `{path}` is not intact: {joined(broken)}")
        refuse_layout(bundle)
        manifest = bundle.manifest
        backend = manifest["target"]["backend"]
        if backend not in javascript.BACKENDS:
            raise UsageError(
                f"a web page runs bundles for onnx, and `{path}` is for {backend}",
                hint="export the model for `onnx`",
            )
        if finds_instances(manifest):
            raise UsageError(
                f"`{path}` finds all instances at once, and the page is for models with an encoder "
                "and a decoder",
                hint="`effsam code --language js` without --app writes its code",
            )
        contract = contract_of(manifest)
        device = "webgpu" if manifest["precision"]["requested"] == FP16 else "wasm"
        files = (contract.encoder.file, contract.decoder.file)
        found.append(Backend(device=device, path=path, manifest=manifest, files=files))
    if len({b.device for b in found}) != len(found):
        raise UsageError(
            "of two bundles, one has to be in fp16, for WebGPU, and one in fp32 or int8",
            hint="give one bundle, or export the model in fp16 and in another precision",
        )
    if len({fingerprint(b.manifest) for b in found}) != 1:
        raise UsageError(
            "the two bundles are called in different ways",
            hint="export the same model in the same size twice, in fp16 and in fp32 or int8",
        )
    return sorted(found, key=lambda b: b.device, reverse=True)


def texts_of(contract: Contract, backends: Sequence[Backend]) -> dict[str, str]:
    """Return the written files by name."""
    code = javascript.files(contract)
    notice = render.notice(contract)
    values = {
        "TITLE": render.plain(contract.title),
        "NOTICE": render.commented(notice, "//"),
        "HTML_NOTICE": notice,
        "FOREGROUND": repr(contract.foreground),
        "BACKGROUND": json.dumps(contract.background),
    }
    found = {
        b.device: {
            "folder": f"{MODELS}/{b.device}",
            "files": b.files,
            FP16: b.manifest["precision"]["requested"] == FP16,
        }
        for b in backends
    }
    bundles = f"{values['NOTICE']}\nexport const BUNDLES = {json.dumps(found, indent=2)};\n"
    package = json.loads(code["package.json"])
    package["scripts"] = {"start": "node serve.mjs"}
    texts = {
        "index.html": render.fill("index.html", (), values),
        "bundles.mjs": bundles,
        "segmenter.mjs": code["segmenter.mjs"],
        "package.json": json.dumps(package, indent=2) + "\n",
    }
    # A browser takes its files for a new version of the page when this name changes.
    content = [texts, *(e["sha256"] for b in backends for e in b.manifest["files"])]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    values["CACHE"] = f"effsam-{digest[:16]}"
    return {**texts, **{name: render.fill(name, (), values) for name in SCRIPTS}}


def _copied(backend: Backend) -> tuple[str, ...]:
    """Return the files of a bundle that the page needs: its graphs and the weights' licence."""
    licence = backend.manifest["model"]["licence"]["file"]
    return (*backend.files, licence)


def _write(texts: Mapping[str, str], models: Mapping[str, Path], folder: Path) -> None:
    for name, source in models.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    for name, text in texts.items():
        write_whole(folder / name, text.encode())
