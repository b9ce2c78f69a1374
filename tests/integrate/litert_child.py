"""One signature of a TFLite file in LiteRT's interpreter, for a JVM: tensors in, tensors out.

Whole numbers and float32 values are big-endian, names are as `DataOutputStream.writeUTF` has them.
First the number of inputs, each with its name and elements, and the outputs likewise. Then for each
call: the number of tensors, and of each its name, elements and values; the same comes back.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import BinaryIO

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main(file: str, signature: str, spoil: bool) -> None:
    # What the runtime prints itself must not get between the tensors.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    runner = Interpreter(model_path=file).get_signature_runner(signature)
    shapes = {name: d["shape"] for name, d in runner.get_input_details().items()}
    made = {name: d["shape"] for name, d in runner.get_output_details().items()}
    for tensors in (shapes, made):
        out.write(struct.pack(">i", len(tensors)))
        for name, shape in tensors.items():
            out.write(head(name, int(np.prod(shape))))
    out.flush()
    while count := sys.stdin.buffer.read(4):
        feeds = {}
        for _ in range(*struct.unpack(">i", count)):
            name, values = read(sys.stdin.buffer)
            feeds[name] = values.reshape(shapes[name])
        outputs = runner(**feeds)
        if spoil and "low_res_masks" in outputs:
            outputs["low_res_masks"] = outputs["low_res_masks"] * np.float32(np.nan)
        out.write(struct.pack(">i", len(outputs)))
        for name, value in outputs.items():
            out.write(head(name, value.size) + value.astype(">f4").tobytes())
        out.flush()


def head(name: str, elements: int) -> bytes:
    text = name.encode()
    return struct.pack(">H", len(text)) + text + struct.pack(">i", elements)


def read(file: BinaryIO) -> tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    name = file.read(*struct.unpack(">H", file.read(2))).decode()
    elements = struct.unpack(">i", file.read(4))[0]
    return name, np.frombuffer(file.read(4 * elements), ">f4").astype(np.float32)


if __name__ == "__main__":
    main(sys.argv[-2], sys.argv[-1], "--spoil" in sys.argv)
