"""The apps' own code, from their packages, on the folders that we write: Transformers.js, rembg."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from effsam_export.spec.tensors import Float32

LIBRARY = "@huggingface/transformers@4.3.2"
BROWSER_DRIVER = "playwright-core@1"
SCRIPTS = ("ask.mjs", "in_node.mjs", "in_chromium.mjs")
REMBG_MODEL = "sam_vit_b_01ec64"
"""The model of its session `sam`."""
REMBG = """
import json, sys
import numpy as np
from PIL import Image
from rembg import new_session

given = json.load(open(sys.argv[1]))
session = new_session("sam")

class Kept:
    def __init__(self, session, name):
        self.session, self.name, self.get_inputs = session, name, session.get_inputs
    def run(self, names, feeds):
        np.savez(f"{self.name}.npz", **feeds)
        return self.session.run(names, feeds)

session.encoder, session.decoder = Kept(session.encoder, "fed"), Kept(session.decoder, "asked")
for i, prompt in enumerate(given["questions"]):
    (mask,) = session.predict(Image.open(given["image"]), sam_prompt=prompt)
    np.save(f"mask{i}.npy", np.asarray(mask) > 127)
    np.savez(f"fed{i}.npz", image=np.load("fed.npz")[session.encoder.get_inputs()[0].name],
             **{k: v for k, v in np.load("asked.npz").items() if k.startswith("point")})
"""
"""Asks rembg's session, and keeps what it feeds to the graphs."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an app fed for one prompt, and the masks that it returned.

    Attributes:
        pixels: Input of the encoder.
        points: Nx2 in the app's frame, the padding point of rembg too.
        labels: N.
        resized: (height, width) of the image in the encoder's input.
        masks: KxHxW in the size of the image.
        scores: K; empty for rembg.
    """

    pixels: Float32
    points: Float32
    labels: Float32
    resized: tuple[int, int]
    masks: NDArray[np.bool_]
    scores: tuple[float, ...]


def install_transformers_js(folder: Path, *, browser: bool = False) -> str | None:
    """Install the library as an app does, with a driver of browsers; return why it failed."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        return "node and npm are not installed"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true}')
    # The binaries for the CPU are in the packages.
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    packages = [LIBRARY, *([BROWSER_DRIVER] if browser else [])]
    done = run([npm, "install", *options, *packages], folder)
    if done.returncode:
        return f"{LIBRARY} cannot be installed: {done.stderr.strip()[-200:]}"
    for name in SCRIPTS:
        shutil.copy(Path(__file__).with_name(name), folder)
    return None


def transformers_js(
    library: Path,
    bundle: Path,
    image: Path,
    questions: Sequence[dict[str, Any]],
    *,
    chromium: str | None = None,
) -> list[Answer]:
    """Ask the library for the masks of prompts, each `input_points` and `input_labels`.

    It runs in node, or in a browser at the path `chromium`.
    """
    given = {
        "parent": f"{bundle.parent}/",
        "name": bundle.name,
        "image": str(image),
        "questions": list(questions),
        "options": {"dtype": "fp32"},
    }
    (library / "given.json").write_text(json.dumps(given), "utf-8")
    script = ["in_node.mjs"] if chromium is None else ["in_chromium.mjs"]
    done = run(
        ["node", *script, "given.json", *([chromium] if chromium is not None else [])], library
    )
    assert done.returncode == 0, done.stderr
    pixels = np.fromfile(library / "pixels.bin", dtype=np.float32).reshape(1, 3, 1024, 1024)
    answers = []
    documents = json.loads((library / "answers.json").read_text("utf-8"))
    for i, (found, question) in enumerate(zip(documents, questions, strict=True)):
        flat = np.fromfile(library / f"masks{i}.bin", dtype=np.uint8)
        answers.append(
            Answer(
                pixels=pixels,
                points=np.asarray(found["points"], dtype=np.float32).reshape(-1, 2),
                labels=np.asarray(question["input_labels"][0], dtype=np.float32),
                resized=(found["resized"][0], found["resized"][1]),
                masks=flat.reshape(found["dims"])[0].astype(bool),
                scores=tuple(found["scores"]),
            )
        )
    return answers


def rembg(
    python: str,
    folder: Path,
    bundle: Path,
    image: Path,
    questions: Sequence[list[dict[str, Any]]],
) -> list[Answer]:
    """The masks of rembg's session `sam` on a bundle, in a Python that has rembg.

    Args:
        python: Path of that Python.
        folder: Takes the graphs under rembg's names, and its answers.
        bundle: In the layout `anylabeling`.
        image: An image file.
        questions: Each a list of marks, as `sam_prompt` takes them.
    """
    home = folder / "u2net"
    home.mkdir(parents=True, exist_ok=True)
    for graph in ("encoder", "decoder"):
        shutil.copyfile(bundle / f"{graph}.onnx", home / f"{REMBG_MODEL}.{graph}.onnx")
    (folder / "ask.py").write_text(REMBG, "utf-8")
    given = {"image": str(image), "questions": list(questions)}
    (folder / "given.json").write_text(json.dumps(given), "utf-8")
    done = run([python, "ask.py", "given.json"], folder, U2NET_HOME=str(home))
    assert done.returncode == 0, done.stderr
    answers = []
    for i in range(len(questions)):
        with np.load(folder / f"fed{i}.npz") as fed:
            answers.append(
                Answer(
                    pixels=fed["image"],
                    points=fed["point_coords"][0],
                    labels=fed["point_labels"][0],
                    resized=(fed["image"].shape[0], fed["image"].shape[1]),
                    masks=np.load(folder / f"mask{i}.npy")[None],
                    scores=(),
                )
            )
    return answers


def run(command: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program with more environment variables, and keep what it prints."""
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **more},
    )
