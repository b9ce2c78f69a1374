"""Whether two builds from nothing give equal packed bundles, file by file where they do not.

`python -m benchmarks.equal_builds [MODEL ...] [--weights DIR] [--target T ...] [--precision P ...]
[--jobs N]`. Each build has an empty cache of its own. A file that differs has to be one that the
manifest names in `varies` with its reason; the manifest holds all hashes and differs with it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import builds, golden_checkpoints
from benchmarks.matrix import PRECISIONS, TARGETS
from effsam_export.bundle import archive, read
from effsam_export.util.files import sha256_of


def packed(model: str, args: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Cell -> its bundle, of one build into `folder`, with the packed file beside it."""
    folder.mkdir()
    file = builds.prepare(model, args, folder)
    found = builds.build(file, ["--jobs", str(args.jobs)])
    bundles = {}
    for cell in found["cells"]:
        name = f"{cell['target']}-{cell['precision']}"
        bundle = folder / "dist" / f"{model}-{name}"
        if not bundle.is_dir():
            print(f"✗ {model} {name}: {cell['message']}", file=sys.stderr)
            continue
        archive.pack(bundle, bundle.with_suffix(archive.SUFFIX))
        bundles[name] = bundle
    return bundles


def differing(one: Path, other: Path) -> tuple[list[str], list[str]]:
    """Files of two bundles that differ: those that the manifest names, and all others.

    Raises:
        EffsamError: A bundle has no readable manifest.
    """
    first, second = (
        {e["path"]: e["sha256"] for e in read.read(p).manifest["files"]} for p in (one, other)
    )
    unequal = sorted(n for n in first.keys() | second.keys() if first.get(n) != second.get(n))
    named = {entry["file"] for entry in read.read(one).manifest.get("nondeterministic_files", [])}
    return [n for n in unequal if n in named], [n for n in unequal if n not in named]


def rows(model: str, args: argparse.Namespace) -> list[str]:
    """Each cell of a model as a row of Markdown."""
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        first, second = (packed(model, args, Path(name) / side) for side in ("first", "second"))
        found = []
        for cell in first:
            if cell not in second:
                found.append(f"| `{model}` | {cell} | **built once of two times** | | |")
                continue
            pair = [bundle.with_suffix(archive.SUFFIX) for bundle in (first[cell], second[cell])]
            equal = sha256_of(pair[0]) == sha256_of(pair[1])
            named, others = differing(first[cell], second[cell])
            found.append(
                f"| `{model}` | {cell} | {'equal' if equal else 'differ'} | {', '.join(named)} "
                f"| {', '.join(others)} |"
            )
    return found


def main(argv: list[str] | None = None) -> None:
    """Build everything twice and print what is equal."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("models", nargs="*", default=["mobile-sam"])
    parser.add_argument("--target", nargs="+", default=TARGETS)
    parser.add_argument("--precision", nargs="+", default=(*PRECISIONS, "int8"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--golden", type=Path, default=golden_checkpoints.golden_dir())
    parser.add_argument("--weights", type=Path, help="folder of MODEL.pt files to prefer")
    parser.add_argument("--work", type=Path, help="folder for bundles [default: /tmp]")
    args = parser.parse_args(argv)
    print("| model | cell | packed | differ, named in `varies` | differ, not named |")
    print("| --- | --- | --- | --- | --- |")
    for model in args.models:
        for row in rows(model, args):
            print(row, flush=True)


if __name__ == "__main__":
    main()
