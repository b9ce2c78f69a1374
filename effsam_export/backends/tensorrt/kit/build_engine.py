#!/usr/bin/env python3
"""Build the engines of this bundle on the machine that will run them.

    python3 kit/build_engine.py            every component
    python3 kit/build_engine.py --print    only print the trtexec commands

Needs Python 3.10 or newer with `tensorrt` (part of JetPack). Without it, the equivalent trtexec
commands are printed. An engine works only with the TensorRT version and GPU that it was built with:
build it again after an update.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

KIT = Path(__file__).resolve().parent
OOM = "Could not find any implementation"
ADVICE = (
    "memory probably ran out: close other programs, limit the builder's memory with "
    "--workspace-mib, or add swap (Jetson)"
)


def components(bundle: Path) -> list[str]:
    """Return the components of a bundle, by the names of its `*.profiles.json` files."""
    return sorted(p.name.partition(".")[0] for p in bundle.glob("*.profiles.json"))


def profile_of(bundle: Path, component: str) -> dict[str, Any]:
    """Read the shape ranges and builder options of one component."""
    found: dict[str, Any] = json.loads((bundle / f"{component}.profiles.json").read_text("utf-8"))
    return found


def trtexec(bundle: Path, component: str, workspace_mib: int = 0) -> str:
    """Return the trtexec command that builds the same engine."""
    document = profile_of(bundle, component)
    workspace_mib = workspace_mib or document["workspace_mib"]
    words = [
        "trtexec",
        f"--onnx={bundle / (component + '.onnx')}",
        f"--saveEngine={bundle / (component + '.engine')}",
        "--stronglyTyped",
        "--profilingVerbosity=detailed",
        "--skipInference",
    ]
    if not document["tf32"]:
        words.append("--noTF32")
    if workspace_mib:
        words.append(f"--memPoolSize=workspace:{workspace_mib}M")
    dynamic = {n: r for n, r in document["inputs"].items() if r["min"] != r["max"]}
    if dynamic:
        # trtexec needs shapes only for the dynamic inputs.
        for key in ("min", "opt", "max"):
            shapes = ",".join(f"{n}:{'x'.join(map(str, r[key]))}" for n, r in dynamic.items())
            words.append(f"--{key}Shapes={shapes}")
    return " ".join(words)


def version_of(text: str) -> tuple[int, ...]:
    """Return the first two numbers of a version: (10, 3) for 10.3.0.30."""
    return tuple(int(n) for n in text.split(".")[:2])


def build(trt: Any, bundle: Path, component: str, workspace_mib: int = 0) -> bytes:
    """Build the engine of one component and return its bytes.

    Raises:
        RuntimeError: TensorRT is too old or failed; the message has all of its reasons.
    """
    document = profile_of(bundle, component)
    workspace_mib = workspace_mib or document["workspace_mib"]
    logger = trt.Logger(trt.Logger.WARNING)
    oldest = document["tensorrt"]
    if version_of(trt.__version__) < version_of(oldest):
        raise RuntimeError(f"TensorRT {trt.__version__} is too old: {oldest} or newer is needed")
    builder = trt.Builder(logger)
    # TensorRT 10 needs this flag; 11 has only strongly typed networks and may drop it.
    flags = getattr(trt, "NetworkDefinitionCreationFlag", None)
    strong = getattr(flags, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strong is None else 1 << int(strong))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(bundle / f"{component}.onnx"))
    faults = [parser.get_error(i) for i in range(parser.num_errors)]
    if not parsed or faults:
        raise RuntimeError("\n".join(f"node `{f.node_name()}`: {f.desc()}" for f in faults))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if not document["tf32"]:
        config.clear_flag(trt.BuilderFlag.TF32)
    if workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    if any(r["min"] != r["max"] for r in document["inputs"].values()):
        profile = builder.create_optimization_profile()
        for name, r in document["inputs"].items():
            profile.set_shape(name, tuple(r["min"]), tuple(r["opt"]), tuple(r["max"]))
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError(f"no engine was built; if the log above contains `{OOM}`, {ADVICE}")
    return bytes(engine)


def main(arguments: list[str] | None = None) -> int:
    """Build engines and print a line for each; return 1 after a failure, 3 without TensorRT."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("components", nargs="*", help="default: all components of the bundle")
    parser.add_argument("--bundle", type=Path, default=KIT.parent)
    parser.add_argument("--print", action="store_true", help="only print the trtexec commands")
    parser.add_argument(
        "--workspace-mib", type=int, default=0, help="maximum workspace memory of a layer, in MiB"
    )
    options = parser.parse_args(arguments)
    known = components(options.bundle)
    chosen = options.components or known
    unknown = [c for c in chosen if c not in known]
    if unknown or not chosen:
        print(
            f"error: there is no component `{unknown[0] if unknown else '*'}`; "
            f"the bundle has {', '.join(known) or 'none'}",
            file=sys.stderr,
        )
        return 2
    if options.print:
        for component in chosen:
            print(trtexec(options.bundle, component, options.workspace_mib))
        return 0
    try:
        import tensorrt as trt
    except ImportError:
        print(
            "error: the Python package `tensorrt` is not installed; on a Jetson it comes with "
            "JetPack (`sudo apt install python3-libnvinfer`). The equivalent trtexec commands:\n",
            file=sys.stderr,
        )
        for component in chosen:
            print(trtexec(options.bundle, component, options.workspace_mib))
        return 3
    print(f"TensorRT {trt.__version__}")
    for component in chosen:
        begin = time.monotonic()
        try:
            engine = build(trt, options.bundle, component, options.workspace_mib)
        except RuntimeError as error:
            print(f"error: {component}: {error}", file=sys.stderr)
            return 1
        path = options.bundle / f"{component}.engine"
        part = path.with_name(path.name + ".part")
        part.write_bytes(engine)
        part.replace(path)
        print(
            f"{component}: {path.name}, {len(engine) / 1e6:.1f} MB in "
            f"{time.monotonic() - begin:.0f} s, sha256 {hashlib.sha256(engine).hexdigest()[:12]}"
        )
    print("next: python3 kit/verify_engine.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
