"""Exchange of a build with a cluster worker: input files by their hash, and a reply."""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export.bundle import archive
from effsam_export.errors import UsageError
from effsam_export.matrix import worker
from effsam_export.matrix.reply import Reply, decode, encode
from effsam_export.matrix.worker import Job, Outcome
from effsam_export.util.files import write_whole
from effsam_export.util.owned import temporary_directory
from effsam_export.weights.fetch import default_cache_dir
from effsam_export.weights.lora_config import FILE_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LOG = logging.getLogger(__name__)


def by_hash(files: Mapping[str, bytes]) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return name -> sha256, and sha256 -> content."""
    names = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return names, {names[name]: data for name, data in files.items()}


def input_files(job: Job) -> dict[str, bytes]:
    """Return the content of the files of a job, by the name of the `Job` field.

    Raises:
        UsageError: An image lies outside the folder of the file that names it.
    """
    found = {"checkpoint": Path(job.checkpoint).read_bytes()}
    if job.base is not None:
        found["base"] = Path(job.base).read_bytes()
    if job.lora is not None:
        found["lora"] = Path(job.lora).read_bytes()
        config = Path(job.lora).with_name(FILE_NAME)
        if config.is_file():
            found["lora_config"] = config.read_bytes()
    if job.target.endswith(".toml"):
        found["target"] = Path(job.target).read_bytes()
    if job.parity is not None:
        from effsam_export.config.parity import load_parity_images

        images = [i.path for i in load_parity_images(Path(job.parity))]
        found["parity"] = pack_images(Path(job.parity), images)
    if Path(job.calibration).exists() and job.precision == "int8":
        from effsam_export.config import calibration as recipe

        found["calibration"] = pack_images(
            Path(job.calibration), recipe.load(job.calibration).images
        )
    return found


def pack_images(file: Path, images: Iterable[Path]) -> bytes:
    """Return a zip file with a TOML file and its images, or with a folder of images."""
    root = file if file.is_dir() else file.parent
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as whole:
        for path in dict.fromkeys([*([] if file.is_dir() else [file]), *images]):
            try:
                name = path.resolve().relative_to(root.resolve()).as_posix()
            except ValueError:
                raise UsageError(
                    f"image `{path}` is outside the folder of `{file.name}`",
                    hint="a cluster needs images in or below that folder: they are sent together",
                ) from None
            whole.writestr(zipfile.ZipInfo(name, archive.EPOCH), path.read_bytes())
    return sink.getvalue()


def unpack_images(data: bytes, name: str, root: Path) -> Path:
    """Unpack a zip file of `pack_images` to a new folder; return the path of its file or folder."""
    root.mkdir()
    with zipfile.ZipFile(io.BytesIO(data)) as whole:
        whole.extractall(root)
    return root / name if (root / name).is_file() else root


def run_remotely(job: dict[str, Any], names: dict[str, str], files: dict[str, bytes]) -> bytes:
    """Run a job on a worker with the files that were sent; return its reply as bytes.

    Args:
        job: A `Job` as a dictionary; its paths are those of the sender.
        names: `Job` field -> sha256 of its file.
        files: sha256 -> content.
    """
    sent = Job(**job)
    with temporary_directory() as root:
        data = {key: files[digest] for key, digest in names.items()}
        for key, digest in names.items():
            if hashlib.sha256(data[key]).hexdigest() != digest:
                damaged = Outcome(state="failed", message=f"{key} was damaged in transfer")
                return encode(Reply(outcome=damaged, evidence={worker.LOG: b""}))
        checkpoint = root / Path(sent.checkpoint).name
        checkpoint.write_bytes(data["checkpoint"])
        # The stages of the sender are on another machine.
        stages = default_cache_dir() / "build" / "stages"
        here = replace(sent, checkpoint=str(checkpoint), stages=str(stages))
        if sent.base is not None:
            here = replace(here, base=_written(root / "base" / Path(sent.base).name, data["base"]))
        if sent.lora is not None:
            here = replace(here, lora=_written(root / "lora" / Path(sent.lora).name, data["lora"]))
        if "lora_config" in data:
            _written(root / "lora" / FILE_NAME, data["lora_config"])
        if "target" in data:
            target = root / Path(sent.target).name
            target.write_bytes(data["target"])
            here = replace(here, target=str(target))
        if sent.parity is not None:
            parity = unpack_images(data["parity"], Path(sent.parity).name, root / "parity")
            here = replace(here, parity=str(parity))
        if "calibration" in data:
            name = Path(sent.calibration).name
            images = unpack_images(data["calibration"], name, root / "calibration")
            here = replace(here, calibration=str(images))
        work = root / "work"
        work.mkdir()
        LOG.debug("%s: received %d files, %d threads", sent.name, len(data), sent.threads)
        outcome = worker.run(here, work)
        LOG.debug("%s: %s in %.1f s", sent.name, outcome.state, outcome.seconds)
        if outcome.passed:
            archive.pack(work / worker.BUNDLE, work / "bundle.zip")
            whole = (work / "bundle.zip").read_bytes()
            return encode(Reply(outcome=outcome, bundle=whole, evidence={}))
        left = work / f"{worker.BUNDLE}.failed"
        evidence = {p.name: p.read_bytes() for p in sorted(left.glob("*")) if p.is_file()}
        evidence[worker.LOG] = (work / worker.LOG).read_bytes()
        return encode(Reply(outcome=outcome, evidence=evidence))


def unpack_reply(data: object, folder: Path) -> Outcome:
    """Write the files of a reply to a folder, as a local worker does, and return the outcome.

    Raises:
        BundleError: The bundle is not intact.
        UsageError: The reply is not one of `run_remotely`.
    """
    reply = decode(data)
    outcome = reply.outcome
    if reply.bundle is not None:
        file = folder / "bundle.zip"
        try:
            write_whole(file, reply.bundle)
            archive.unpack(file, folder / worker.BUNDLE)
        finally:
            file.unlink(missing_ok=True)
        return outcome
    left = folder / f"{worker.BUNDLE}.failed"
    left.mkdir()
    for name, content in reply.evidence.items():
        (folder if name == worker.LOG else left).joinpath(name).write_bytes(content)
    return outcome


def _written(path: Path, content: bytes) -> str:
    """Write a file that was sent into a folder of its own, and return its path."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return str(path)
