"""`effsam inspect`, `diff`, `pack`, `unpack`, `sign` and `attest`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from effsam_export.cli import console, tables
from effsam_export.cli.options import BundleOrFile, BundlePath, Json, KeyFile
from effsam_export.errors import CheckFailed

if TYPE_CHECKING:
    from effsam_export.bundle.compare import Difference
    from effsam_export.bundle.read import Bundle

Force = Annotated[bool, typer.Option("--force", help="Replace an existing file or directory.")]
INDENT = " " * 10
"""Of what follows the first word of a line of `effsam inspect`."""
MAX_WIDTH = 60
"""Maximum length of a value in a table, in characters; `--json` prints all of it."""


def inspect(bundle: BundleOrFile, json: Json = False) -> None:
    """Show the content of a bundle.

    Prints what the manifest states; `effsam verify` checks it.
    """
    from effsam_export.bundle import archive
    from effsam_export.bundle.read import read

    with archive.opened(bundle) as path:
        content = read(path)
    if json:
        console.document(
            {"manifest": content.manifest, "manifest_version": content.manifest_version}
        )
        return
    console.data(_describe(content))


def diff(
    first: BundleOrFile,
    second: Annotated[Path, typer.Argument(metavar="OTHER", help="The bundle to compare with.")],
    json: Json = False,
) -> None:
    """Compare two bundles.

    Prints differences in contract, weights, tools and files. The contract is what an app depends
    on: tensors, preprocessing and prompt rules. The exit code is 1 if the bundles differ.
    """
    from effsam_export.bundle import archive, compare
    from effsam_export.bundle.read import read

    with archive.opened(first) as one, archive.opened(second) as other:
        before, after = read(one), read(other)
    differences = compare.differences(before, after)
    contract = any(d.part == "contract" for d in differences)
    needs = compare.needed_changes(before, after)
    if json:
        console.document(
            {
                "contract": contract,
                "changes": list(needs),
                "differences": [asdict(d) for d in differences],
            }
        )
    elif differences:
        rows = [[d.part, d.what, _short(d.before), _short(d.after)] for d in differences]
        console.data(console.table(("part", "what", "before", "after"), rows))
    if differences:
        raise CheckFailed(
            _in_words(differences),
            hint=f"an app for the first bundle needs {' and '.join(needs)} for the second"
            if needs
            else "an app for the first bundle can run the second",
        )


def pack(
    bundle: BundlePath,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Output file [default: BUNDLE.effsam.zip]."),
    ] = None,
    languages: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--with-code",
            metavar="LANGUAGE",
            help="Put code for an app in, as of `effsam code`: python, cpp, js, swift or kotlin "
            "(repeatable).",
        ),
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Pack a bundle into one file. Equal bundles give equal bytes."""
    from contextlib import nullcontext

    from effsam_export.bundle import archive
    from effsam_export.errors import OutputError
    from effsam_export.integrate.packed import with_code
    from effsam_export.util.files import require_output, sha256_of

    # Resolved, so that `.` has a name.
    source = bundle.resolve()
    target = output or source.parent / f"{source.name}{archive.SUFFIX}"
    require_output(target)
    if target.exists() and not force:
        raise OutputError(f"`{target}` exists already", hint="replace it with --force")
    with with_code(bundle, languages) if languages else nullcontext(bundle) as content:
        archive.pack(content, target)
    digest = sha256_of(target)
    if json:
        size = target.stat().st_size
        console.document({"file": str(target), "sha256": digest, "bytes": size})
    else:
        console.data(f"{digest}  {target}")


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file written by `effsam pack`.")],
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output", "-o", help="Output directory [default: FILE without .effsam.zip]."
        ),
    ] = None,
    key: KeyFile = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Unpack a packed bundle.

    Checks every file against the manifest first.
    """
    from effsam_export.bundle import archive
    from effsam_export.util.files import require_output

    target = output or Path(file.name.removesuffix(archive.SUFFIX).removesuffix(".zip"))
    require_output(target, directory=True)
    archive.unpack(file, target, key=key, force=force)
    if json:
        console.document({"bundle": str(target)})
    else:
        console.data(str(target))


def sign(
    bundle: BundlePath,
    key: Annotated[Path, typer.Option("--key", help="Private Ed25519 key (PEM, no password).")],
    json: Json = False,
) -> None:
    """Sign a bundle. `effsam verify --key` and `effsam unpack --key` check the signature."""
    from effsam_export.bundle import signature
    from effsam_export.bundle.read import SIGNATURE

    signature.sign(bundle, key)
    if json:
        console.document({"bundle": str(bundle), "signature": str(bundle / SIGNATURE)})
    else:
        console.data(str(bundle / SIGNATURE))


def attest(
    bundle: BundlePath,
    result: Annotated[
        Path,
        typer.Argument(metavar="RESULT", help="JSON file written by the self-test with --json."),
    ],
    key: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--key", help="Public Ed25519 key (PEM): require a valid signature in RESULT.sig."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Add the result of a device's self-test to a bundle.

    Its masks are compared with the bundle's golden masks. The state `simulated` becomes `verified
    on device`. A result of another bundle or runtime is refused.
    """
    from effsam_export.bundle import attest as library

    entry = library.attest(bundle, result, key)
    if json:
        console.document({"bundle": str(bundle), **asdict(entry)})
        return
    signed = "signed" if entry.signed else "not signed, see --key"
    console.data(
        f"verified on {entry.device}, {entry.runtime} {entry.version}: "
        f"min mask IoU {entry.min_iou:.4f}, score error {entry.score_error:.1e}; {signed}"
    )
    if entry.not_compared:
        console.data(
            f"masks that were not compared, because PyTorch is not confident of them: "
            f"{entry.not_compared}"
        )


def _short(value: object) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= MAX_WIDTH else f"{text[: MAX_WIDTH - 3]}..."


def _in_words(differences: list[Difference]) -> str:
    parts = dict.fromkeys(d.part for d in differences)
    counts = [f"{p} {sum(d.part == p for d in differences)}" for p in parts]
    places = "1 place" if len(differences) == 1 else f"{len(differences)} places"
    return f"the bundles differ in {places}: {', '.join(counts)}"


def _describe(bundle: Bundle) -> str:
    """Return the content of a bundle as text."""
    from effsam_export.bundle.readme import shipped_paths

    m: dict[str, Any] = bundle.manifest
    parity = m["parity"]
    sizes = {e["path"]: e["size"] for e in m["files"]}
    official = "official" if m["checkpoint"]["official"] else "not official"
    lines = [
        f"{m['model']['name']} for {m['target']['name']}, {m['precision']['requested']}, "
        + (f"{m['state']} by {m['simulator']}" if m["simulator"] else m["state"]),
        f"weights   {m['checkpoint']['file_name']}, sha256 {m['checkpoint']['sha256'][:12]}, "
        f"{official}, {m['model']['licence']['spdx']}",
        f"made by   {', '.join(f'{k} {v}' for k, v in sorted(m['tools'].items()))}",
    ]
    lines += [
        f"on        {a['device']}, {a['runtime']} {a['version']}: min mask IoU "
        f"{a['min_mask_iou']:.4f}, {'signed' if a['signed'] else 'not signed'}"
        for a in m.get("attestations", [])
    ]
    if parity["cases"]:
        lines.append(
            f"parity    {parity['cases']} prompts, min mask IoU {parity['min_mask_iou']:.4f} "
            f"mean {parity['mean_mask_iou']:.4f}, score error {parity['max_score_error']:.1e}"
        )
    else:
        lines.append("parity    of tensors only (one component)")
    lines += [
        f"mIoU      {r['miou']:.4f} with {r['prompt']} on {e['annotations']['objects']} objects of "
        f"{e['annotations']['file']}"
        for e in m.get("evaluated", [])
        for r in e["results"]
        if r["size"] == "all"
    ]
    lines += [
        f"{name:9} OpenVINO runs {', '.join(f'{n} operators in {k}' for k, n in found.items())}"
        for name, found in m["precision"].get("executed", {}).items()
    ]
    width = tables.width_of(sys.stdout)
    lines = [tables.fill(line, width, INDENT) for line in lines]
    lines.append("")
    rows = []
    for component in m["components"]:
        # `effsam verify` reports a file that is used but not listed.
        size = sum(sizes.get(f, 0) for f in component["files"])
        kinds = m["precision"]["elements_by_dtype"][component["name"]]
        rows.append(
            [
                component["name"],
                " ".join(shipped_paths(component["files"])),
                f"{size / 1e6:.1f} MB",
                ", ".join(f"{n} {k}" for k, n in sorted(kinds.items())),
            ]
        )
    lines.append(console.table(("component", "files", "size", "constants"), rows))
    lines.append("")
    tensors = [
        [
            c["name"],
            kind,
            t["name"],
            t["dtype"],
            f"[{', '.join(str(s) for s in t['shape'])}]",
            t["description"],
        ]
        for c in m["components"]
        for kind in ("inputs", "outputs")
        for t in c[kind]
    ]
    lines.append(console.table(("component", "", "tensor", "dtype", "shape", "meaning"), tensors))
    return "\n".join(lines)
