"""Files and folders that are no checkpoint are named, with what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from effsam_export.errors import CheckpointError, UsageError
from effsam_export.weights.own_file import checkpoint_from_file, own_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("w.pt", b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"),
        ("w.pt", b"\n <!DOCTYPE html><html>", "a web page"),
        ("w.pt", b"<html>", "a web page"),
        ("m.xml", b'<?xml version="1.0"?><net>', "an XML document, such as an OpenVINO model"),
        ("m.tflite", b"\x1c\0\0\0TFL3", "a TFLite model"),
        ("m.gguf", b"GGUF\x03", "a GGUF file"),
        ("m.h5", b"\x89HDF\r\n", "an HDF5 file"),
        ("m.engine", b"ftrt\x00\x00", "a TensorRT engine"),
        ("w.pt.gz", b"\x1f\x8b\x08", "a gzip archive"),
        ("w.7z", b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
        ("m.onnx", b"\x08\x09", "an ONNX model"),
        ("w.pt", b"\x08\x08\x12\x07pytorch\x1a", "an ONNX model"),
    ],
)
def test_other_formats(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        checkpoint_from_file(path, None)
    assert caught.value.message.startswith(f"`{path}` is {what}")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["Manifest.json"], "a Core ML package"),
        (["manifest.json", "encoder.onnx"], "a bundle, which is exported already"),
        (["saved_model.pb"], "a TensorFlow model"),
        (["adapter_config.json", "adapter_model.safetensors"], "a PEFT adapter"),
        (["readme.txt"], "a directory, not a checkpoint"),
        (["a.pt", "b.pt"], "a directory with 2 weight files"),
        (["0.distcp", "1.distcp"], "a directory, not a checkpoint"),
    ],
)
def test_other_folders(tmp_path: Path, names: list[str], what: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError) as caught:
        checkpoint_from_file(tmp_path, None)
    assert caught.value.message.startswith(f"`{tmp_path}` is {what}")
    assert caught.value.hint


def test_options_that_need_a_file(tmp_path: Path) -> None:
    assert own_checkpoint(None, None, None, None, None, None) is None
    with pytest.raises(UsageError, match="--checkpoint-key and --base and --lora: for a file"):
        own_checkpoint(None, None, "key", tmp_path, tmp_path, None)
    for alpha in (3.0, float("nan")):
        with pytest.raises(UsageError, match="--lora-alpha is the finite number of an adapter"):
            own_checkpoint(None, tmp_path, None, None, None, alpha)
