"""`effsam inspect`, `diff`, `pack`, `unpack`, `sign`, `attest`: bundles as they are passed on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from effsam_export.cli import console
from effsam_export.cli.options import BundleOrFile, BundlePath, Json, KeyFile
from effsam_export.errors import CheckFailed

if TYPE_CHECKING:
    from effsam_export.bundle.compare import Difference
    from effsam_export.bundle.read import Bundle

Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
WIDEST = 60
"""Characters of a value in a table; `--json` has all of them."""


def inspect(bundle: BundleOrFile, json: Json = False) -> None:
    """Show what a bundle holds, from its manifest; `verify` checks that it is true."""
    from effsam_export.bundle import archive
    from effsam_export.bundle.read import read

    with archive.opened(bundle) as path:
        found = read(path)
    if json:
        console.document({"manifest": found.manifest, "manifest_version": found.manifest_version})
        return
    console.data(_describe(found))


def diff(
    first: BundleOrFile,
    second: Annotated[Path, typer.Argument(metavar="OTHER", help="The bundle to compare with.")],
    json: Json = False,
) -> None:
    """Show what differs between two bundles: the contract of an app, weights, tools, files.

    Exit code 1 where anything does.
    """
    from effsam_export.bundle import archive, compare
    from effsam_export.bundle.read import read

    with archive.opened(first) as one, archive.opened(second) as other:
        found = compare.differences(read(one), read(other))
    contract = any(d.part == "contract" for d in found)
    if json:
        console.document({"contract": contract, "differences": [asdict(d) for d in found]})
    elif found:
        rows = [[d.part, d.what, _short(d.before), _short(d.after)] for d in found]
        console.data(console.table(("part", "what", "before", "after"), rows))
    if found:
        raise CheckFailed(
            _in_words(found),
            hint="an app has to be changed for the second"
            if contract
            else "an app that runs the first runs the second",
        )


def pack(
    bundle: BundlePath,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="The file [default: BUNDLE.effsam.zip]."),
    ] = None,
    force: Force = False,
) -> None:
    """Write a bundle as one file; equal bundles are equal bytes."""
    from effsam_export.bundle import archive
    from effsam_export.errors import OutputError
    from effsam_export.util.files import sha256_of

    # Of `.` too, beside it.
    whole = bundle.resolve()
    target = output or whole.with_name(f"{whole.name}{archive.SUFFIX}")
    if target.exists() and not force:
        raise OutputError(f"`{target}` exists already", hint="replace it with --force")
    archive.pack(bundle, target)
    console.data(f"{sha256_of(target)}  {target}")


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As `effsam pack` writes it.")],
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="The directory [default: the file's name without]."),
    ] = None,
    key: KeyFile = None,
    force: Force = False,
) -> None:
    """Make a bundle of its file, after every entry was held to the manifest; else nothing."""
    from effsam_export.bundle import archive

    target = output or Path(file.name.removesuffix(archive.SUFFIX).removesuffix(".zip"))
    archive.unpack(file, target, key=key, force=force)
    console.data(str(target))


def sign(
    bundle: BundlePath,
    key: Annotated[
        Path, typer.Option("--key", help="A private Ed25519 key in PEM, without a password.")
    ],
) -> None:
    """Sign a bundle, for `effsam verify --key` and `effsam unpack --key`."""
    from effsam_export.bundle import signature
    from effsam_export.bundle.read import SIGNATURE

    signature.sign(bundle, key)
    console.data(str(bundle / SIGNATURE))


def attest(
    bundle: BundlePath,
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", help="What a self-test wrote with --json.")
    ],
    key: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--key", help="A public Ed25519 key that has to have signed RESULT.sig."),
    ] = None,
    json: Json = False,
) -> None:
    """Take a device's self-test into a bundle: `simulated` becomes `verified on device`.

    The masks it found are judged here; a result of another bundle or runtime is refused.
    """
    from effsam_export.bundle import attest as library

    found = library.attest(bundle, result, key)
    if json:
        console.document({"bundle": str(bundle), **asdict(found)})
        return
    vouched = "signed" if found.signed else "nobody vouches for it: --key"
    console.data(
        f"verified on {found.device}, {found.runtime} {found.version}: min mask IoU "
        f"{found.min_iou:.4f}, score error {found.score_error:.1e}; {vouched}"
    )


def _short(value: object) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."


def _in_words(found: list[Difference]) -> str:
    parts = dict.fromkeys(d.part for d in found)
    counts = [f"{p} {sum(d.part == p for d in found)}" for p in parts]
    return f"the bundles differ in {len(found)} places: {', '.join(counts)}"


def _describe(bundle: Bundle) -> str:
    """A bundle on one screen."""
    from effsam_export.bundle.readme import shipped_paths

    m: dict[str, Any] = bundle.manifest
    parity = m["parity"]
    sizes = {e["path"]: e["size"] for e in m["files"]}
    official = "official" if m["checkpoint"]["official"] else "not the pinned file"
    lines = [
        f"{m['model']['name']} for {m['target']['name']}, {m['precision']['requested']}, "
        + (f"{m['state']} by {m['simulator']}" if m["simulator"] else m["state"]),
        f"weights   {m['checkpoint']['file_name']}, sha256 {m['checkpoint']['sha256'][:12]}, "
        f"{official}, {m['model']['licence']['spdx']}",
        f"made by   {', '.join(f'{k} {v}' for k, v in sorted(m['tools'].items()))}",
    ]
    lines += [
        f"on        {a['device']}, {a['runtime']} {a['version']}: mask IoU least "
        f"{a['min_mask_iou']:.4f}, {'signed' if a['signed'] else 'not signed'}"
        for a in m.get("attestations", [])
    ]
    if parity["cases"]:
        lines.append(
            f"parity    {parity['cases']} prompts, mask IoU least {parity['min_mask_iou']:.4f} "
            f"mean {parity['mean_mask_iou']:.4f}, score error {parity['max_score_error']:.1e}"
        )
    else:
        lines.append("parity    tensor by tensor (one component)")
    lines.append("")
    rows = []
    for component in m["components"]:
        size = sum(sizes[f] for f in component["files"])
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
