"""Open a component of a bundle, with one error for whatever its runtime makes of the files."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from effsam_export import backends
from effsam_export.backends.messages import explain
from effsam_export.errors import BundleError, EffsamError, joined, shown
from effsam_export.util import installed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from effsam_export.backends import ArtifactSession
    from effsam_export.spec.model import ComponentSpec
    from effsam_export.spec.stages import Artifact
    from effsam_export.spec.tensors import Feeds, Signature


LOG = logging.getLogger(__name__)


class CheckedSession:
    """A session whose outputs are held against the model's component.

    Args:
        session: The opened artefact.
        spec: Names, shapes and dtypes of its inputs and outputs.
        what: The artefact, for messages.
    """

    def __init__(self, session: ArtifactSession, spec: ComponentSpec, what: str) -> None:
        self._session = session
        self._spec = spec
        self._what = what

    def run(self, feeds: Feeds) -> Feeds:
        """Run once; return the outputs by name.

        Raises:
            BundleError: The runtime fails, or an output is missing or of another shape or kind.
        """
        with one_error(f"{self._what} cannot be run"):
            outputs = self._session.run(feeds)
        if problems := output_problems(self._spec, feeds, outputs):
            raise BundleError(
                f"{self._what} is not the {self._spec.name} of its model: {joined(problems)}",
                hint="export the bundle again",
            )
        return outputs

    def signature(self) -> Signature:
        """Return the graph's inputs and outputs as the runtime or the file reports them."""
        return self._session.signature()


def opened(artifact: Artifact, spec: ComponentSpec, threads: int | None = None) -> CheckedSession:
    """Open an artefact in the runtime of its backend.

    Args:
        artifact: The artefact.
        spec: Its component.
        threads: As in `backends.Backend.open_session`.

    Raises:
        BundleError: The runtime cannot open it.
        ToolchainMissing: The runtime is not installed.
    """
    backend = backends.load(artifact.backend)
    what = f"`{artifact.files[0].name}`"
    _log(artifact, threads)
    with one_error(f"{what} cannot be opened for backend `{artifact.backend}`"):
        return CheckedSession(backend.open_session(artifact, threads), spec, what)


def _log(artifact: Artifact, threads: int | None) -> None:
    """Log what is opened, and in which runtime."""
    if LOG.isEnabledFor(logging.DEBUG):
        packages = backends.BACKENDS[artifact.backend].packages
        versions = ", ".join(f"{name} {installed.version_of(name)}" for name in packages)
        options = ", ".join(f"{name} {value}" for name, value in artifact.options.items())
        LOG.debug("%s: %s", artifact.component, ", ".join(map(str, artifact.files)))
        LOG.debug("%s: backend %s, %s", artifact.component, artifact.backend, versions)
        LOG.debug("%s: options %s", artifact.component, options or "none")
        if threads is not None:
            LOG.debug("%s: %d threads", artifact.component, threads)


@contextmanager
def one_error(what: str) -> Iterator[None]:
    """Raise `BundleError` in place of any error of a runtime; this package's own errors pass."""
    try:
        yield
    except (EffsamError, MemoryError):
        raise
    # Each runtime has exceptions of its own, and none documents all of them.
    except Exception as error:
        known = explain(str(error))
        reason = known.cause if known else shown(error) or type(error).__name__
        raise BundleError(
            f"{what}: {reason}",
            hint=known.hint
            if known
            else "`effsam verify` shows whether the files are intact; `effsam inspect` shows the "
            "versions of the runtime with which the bundle was made",
        ) from error


def output_problems(spec: ComponentSpec, feeds: Feeds, outputs: Feeds) -> list[str]:
    """Return a sentence for each output that differs from its spec in shape or kind of dtype.

    Dynamic axes have the sizes of the inputs.
    """
    import numpy as np

    sizes = {
        axis: size
        for tensor in spec.inputs
        if tensor.name in feeds
        for axis, size in zip(tensor.shape, feeds[tensor.name].shape, strict=False)
    }
    problems = []
    for tensor in spec.outputs:
        if tensor.name not in outputs:
            problems.append(f"it has no output `{tensor.name}`")
            continue
        value = np.asarray(outputs[tensor.name])
        shape = [s if isinstance(s, int) else sizes.get(s, s) for s in tensor.shape]
        if len(shape) != value.ndim or any(
            actual != expected if isinstance(expected, int) else actual < 1
            for actual, expected in zip(value.shape, shape, strict=True)
        ):
            problems.append(f"output `{tensor.name}` has shape {list(value.shape)}, want {shape}")
        elif value.dtype.kind != np.dtype(tensor.dtype).kind:
            problems.append(f"output `{tensor.name}` is {value.dtype}, want {tensor.dtype}")
    return problems
