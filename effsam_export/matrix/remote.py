"""What passes between a build and a worker of its cluster: files by their hash, and a reply."""

from __future__ import annotations

import hashlib
import io
import tempfile
import zipfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export.bundle import archive
from effsam_export.errors import UsageError
from effsam_export.matrix import worker
from effsam_export.matrix.worker import Answer, Job
from effsam_export.util.files import write_whole
from effsam_export.weights.fetch import default_cache_dir

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a worker sends back: the answer, and the packed bundle or what a failure left."""

    answer: dict[str, Any]
    bundle: bytes | None = None
    evidence: Mapping[str, bytes]


def by_hash(files: Mapping[str, bytes]) -> tuple[dict[str, str], dict[str, bytes]]:
    """Name -> sha256, and contents by sha256."""
    names = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return names, {names[name]: data for name, data in files.items()}


def inputs(job: Job) -> dict[str, bytes]:
    """Contents of the files that a job names, by the key they are named under.

    Raises:
        UsageError: A photograph does not lie beside the file that names it.
    """
    found = {"checkpoint": Path(job.checkpoint).read_bytes()}
    if job.target.endswith(".toml"):
        found["target"] = Path(job.target).read_bytes()
    if job.parity is not None:
        from effsam_export.config.parity import load_parity_images

        images = [i.path for i in load_parity_images(Path(job.parity))]
        found["parity"] = packed(Path(job.parity), images)
    if Path(job.calibration).exists() and job.precision == "int8":
        from effsam_export.config import calibration as recipe

        found["calibration"] = packed(Path(job.calibration), recipe.load(job.calibration).images)
    return found


def packed(file: Path, images: Iterable[Path]) -> bytes:
    """A file, or a folder of photographs, and the photographs that it names, as one zip."""
    root = file if file.is_dir() else file.parent
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as whole:
        for path in dict.fromkeys([*([] if file.is_dir() else [file]), *images]):
            try:
                name = path.resolve().relative_to(root.resolve()).as_posix()
            except ValueError:
                raise UsageError(
                    f"photograph `{path}` does not lie beside `{file.name}`",
                    hint="on a cluster it has to: they are sent together",
                ) from None
            whole.writestr(zipfile.ZipInfo(name, archive.EPOCH), path.read_bytes())
    return sink.getvalue()


def unpacked(data: bytes, name: str, root: Path) -> Path:
    """Undo `packed`, below a folder."""
    root.mkdir()
    with zipfile.ZipFile(io.BytesIO(data)) as whole:
        whole.extractall(root)
    return root / name if (root / name).is_file() else root


def remote(job: dict[str, Any], names: dict[str, str], files: dict[str, bytes]) -> Reply:
    """On a worker: do a job with the files that came with it.

    Args:
        job: Whose paths mean nothing here.
        names: Key of a file -> its sha256.
        files: Contents by sha256.
    """
    asked = Job(**job)
    with tempfile.TemporaryDirectory(prefix="effsam-") as name:
        root = Path(name)
        data = {key: files[digest] for key, digest in names.items()}
        for key, digest in names.items():
            if hashlib.sha256(data[key]).hexdigest() != digest:
                damaged = Answer(state="failed", message=f"{key} was damaged on its way")
                return Reply(answer=asdict(damaged), evidence={worker.LOG: b""})
        checkpoint = root / Path(asked.checkpoint).name
        checkpoint.write_bytes(data["checkpoint"])
        # Its own: what the build shares is on another machine.
        stages = default_cache_dir() / "build" / "stages"
        here = replace(asked, checkpoint=str(checkpoint), stages=str(stages))
        if "target" in data:
            target = root / Path(asked.target).name
            target.write_bytes(data["target"])
            here = replace(here, target=str(target))
        if asked.parity is not None:
            place = unpacked(data["parity"], Path(asked.parity).name, root / "parity")
            here = replace(here, parity=str(place))
        if "calibration" in data:
            own = unpacked(data["calibration"], Path(asked.calibration).name, root / "calibration")
            here = replace(here, calibration=str(own))
        work = root / "work"
        work.mkdir()
        answer = worker.run(here, work)
        if answer.passed:
            archive.pack(work / worker.BUNDLE, work / "bundle.zip")
            whole = (work / "bundle.zip").read_bytes()
            return Reply(answer=asdict(answer), bundle=whole, evidence={})
        left = work / f"{worker.BUNDLE}.failed"
        evidence = {p.name: p.read_bytes() for p in left.glob("*") if p.is_file()}
        evidence[worker.LOG] = (work / worker.LOG).read_bytes()
        return Reply(answer=asdict(answer), evidence=evidence)


def received(reply: Reply, folder: Path) -> Answer:
    """What a worker sent, in the form that a local worker leaves it in.

    Raises:
        BundleError: The bundle is not what its manifest says.
    """
    answer = Answer(**reply.answer)
    if reply.bundle is not None:
        file = folder / "bundle.zip"
        write_whole(file, reply.bundle)
        archive.unpack(file, folder / worker.BUNDLE)
        file.unlink()
        return answer
    left = folder / f"{worker.BUNDLE}.failed"
    left.mkdir()
    for name, data in reply.evidence.items():
        (folder if name == worker.LOG else left).joinpath(Path(name).name).write_bytes(data)
    return answer
