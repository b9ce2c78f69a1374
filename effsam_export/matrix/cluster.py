"""Run the cells of a build on a Dask cluster, each on workers with its toolchain.

Input files are sent by the hash of their content, so Dask moves each to a worker only once. A
bundle comes back packed (`effsam pack`), and is checked when unpacked. Its cache key is made from
the environment of the worker.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export.errors import (
    CheckFailed,
    EffsamError,
    ToolchainMissing,
    UsageError,
    shown,
)
from effsam_export.matrix import keys, worker
from effsam_export.matrix.remote import by_hash, input_files, run_remotely, unpack_reply
from effsam_export.matrix.reply import MEMORY, PLUGIN, decode_environment
from effsam_export.matrix.tls import TlsFiles, security
from effsam_export.matrix.worker import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distributed import Client

    from effsam_export.matrix.config import Cell
    from effsam_export.matrix.keys import Environment
    from effsam_export.matrix.worker import Job

LOG = logging.getLogger(__name__)
ATTEMPTS = 3
"""Attempts for a cell whose workers die."""
POLL_S = 0.5
"""Interval of the checks whether a cell is done and its workers are alive."""
TIMEOUT_S = 20
"""Time for the first connection to a scheduler."""
NO_TLS = TlsFiles()


@dataclass(frozen=True, kw_only=True)
class Site:
    """Workers that give equal bundles of a cell."""

    environment: Environment
    addresses: tuple[str, ...]


def connect(address: str, tls: TlsFiles = NO_TLS) -> Client:
    """Connect to a scheduler.

    Raises:
        ToolchainMissing: `distributed` is not installed.
        UsageError: The address does not answer, or the TLS files cannot be used.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ToolchainMissing("a cluster", "distributed", "cluster") from error
    try:
        # The caller may have set a default client of its own.
        return Client(  # type: ignore[no-untyped-call]
            address,
            timeout=TIMEOUT_S,
            set_as_default=False,
            security=security(tls, "client", address),
        )
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(
            f"no scheduler answers at `{address}`",
            hint="`dask scheduler` starts one, `effsam worker --scheduler ADDRESS` a worker",
        ) from error


class Cluster:
    """Runs jobs on the workers of a scheduler.

    Args:
        client: Client of the scheduler.
        requires: Target -> label that its workers must have.

    Raises:
        UsageError: No effsam worker is connected, or none has the targets and recipes of this
            machine.
    """

    def __init__(self, client: Client, requires: Mapping[str, str]) -> None:
        self._client, self._requires = client, requires
        # Other Dask workers may not have this package, and answer with an error.
        answers = client.run(announced_environment, on_error="return")
        found = {address: decode_environment(answers[address]) for address in sorted(answers)}
        self.environments: dict[str, Environment] = {
            address: environment
            for address, environment in found.items()
            if environment is not None
        }
        if not self.environments:
            raise UsageError(
                "the scheduler has no worker of effsam-export",
                hint="start one: effsam worker --scheduler ADDRESS",
            )
        # A worker reads targets and recipes of its own package, but the key is made from these.
        local = keys.data_hash()
        self.environments = {a: e for a, e in self.environments.items() if e.data_hash == local}
        if not self.environments:
            raise UsageError(
                "no worker has the targets and recipes of this machine",
                hint="install the same effsam-export on both",
            )
        info = client.scheduler_info(n_workers=-1)["workers"]
        self._memory = {a: float(info[a]["resources"].get(MEMORY, 0)) for a in self.environments}
        self._sites: dict[str, Site] = {}
        self._stopped = False

    @property
    def slots(self) -> int:
        """Number of cells that all workers together run at the same time."""
        threads: Mapping[str, int] = self._client.nthreads()  # type: ignore[no-untyped-call]
        return sum(threads[a] for a in self.environments)

    def environment(self, cell: Cell) -> Environment:
        """Choose the workers for a cell, and return their environment.

        Of the workers that can build the cell, the largest group with equal environments is chosen.

        Raises:
            UsageError: No worker can build the cell.
        """
        backend = cell.profile.backend
        label = self._requires.get(Path(cell.target).stem)
        able = {
            address: environment
            for address, environment in self.environments.items()
            if environment.lacks(backend, cell.precision) is None
            and (label is None or label in environment.labels)
        }
        if not able:
            labelled = f" labelled `{label}`" if label else ""
            raise UsageError(
                f"no worker{labelled} can build `{cell.name}`",
                hint=f"start a worker with the packages of backend `{backend}`",
            )
        groups = Counter(_relevant(e, backend, cell.precision) for e in able.values())
        most, _ = max(groups.items(), key=lambda item: (item[1], item[0]))
        equal = {a: e for a, e in able.items() if _relevant(e, backend, cell.precision) == most}
        environment = next(iter(equal.values()))
        self._sites[cell.name] = Site(environment=environment, addresses=tuple(equal))
        LOG.debug("%s: workers %s", cell.name, ", ".join(equal))
        return environment

    def execute(self, job: Job, folder: Path) -> Outcome:
        """Run a job on the cluster; its bundle is `folder/bundle`, as for `worker.run`."""
        files = input_files(job)
        reason = ""
        for _ in range(ATTEMPTS):
            alive = self._alive(self._sites[job.name])
            if not alive or self._stopped:
                reason = reason or "none is left"
                break
            reply, reason = self._send(job, files, alive)
            if not reason:
                return _received(reply, folder)
        (folder / worker.LOG).write_text(f"{reason}\n", "utf-8")
        return Outcome(state="failed", message=f"lost the workers or their scheduler: {reason}")

    def stop(self) -> None:
        """Make all calls of `execute` return soon; an export that a worker began goes on there."""
        self._stopped = True

    def _send(self, job: Job, files: Mapping[str, bytes], alive: list[str]) -> tuple[object, str]:
        """Return a worker's reply or exception, and no text; or None, and why there is none."""
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        names, contents = by_hash(files)
        try:
            remote_files = self._client.scatter(contents, workers=alive)  # type: ignore[no-untyped-call]
            future = self._client.submit(
                run_remotely,
                asdict(job),
                names,
                remote_files,
                workers=alive,
                resources={MEMORY: min(job.needs_mb, max(self._memory[a] for a in alive))},
                pure=False,
            )
            while not future.done():  # type: ignore[no-untyped-call]
                if self._stopped:
                    future.cancel()  # type: ignore[no-untyped-call]
                    return None, "the build was stopped"
                # If all its workers died, the scheduler would wait forever for new ones.
                if not self._alive(self._sites[job.name]):
                    future.cancel()  # type: ignore[no-untyped-call]
                    return None, "none is left"
                time.sleep(POLL_S)
            return future.result(), ""
        except (KilledWorker, FutureCancelledError, OSError, TimeoutError) as error:
            return None, f"{type(error).__name__}: {error}".splitlines()[0]
        except Exception as error:  # Dask raises the exception of the worker's process here.
            return error, ""

    def _alive(self, site: Site) -> list[str]:
        """Return the addresses of a site's workers that are connected."""
        if self._client.status != "running":
            return []
        connected = self._client.scheduler_info(n_workers=-1)["workers"]
        return [a for a in site.addresses if a in connected]


def announced_environment(dask_worker: Any) -> bytes | None:  # noqa: ANN401 - distributed fills it in
    """Return the environment of a worker that `serve` started; None for other Dask workers."""
    found: bytes | None = getattr(dask_worker, PLUGIN, None)
    return found


def _received(reply: object, folder: Path) -> Outcome:
    """Unpack a reply; one that is refused, or an exception, is the failure of its cell."""
    try:
        if isinstance(reply, Exception):
            message = shown(f"the worker raised {type(reply).__name__}: {reply}")
            raise CheckFailed(message, hint="see the worker's own output")
        return unpack_reply(reply, folder)
    except EffsamError as error:
        (folder / worker.LOG).write_text(f"{error.message}\n", "utf-8")
        return Outcome(state="failed", message=error.message, hint=error.hint)


def _relevant(environment: Environment, backend: str, precision: str) -> str:
    """Return the parts of an environment that a bundle depends on, as text."""
    tools = {t: environment.tools[t] for t in keys.tools_of(backend, precision)}
    rest = {k: v for k, v in asdict(environment).items() if k not in ("tools", "labels")}
    return json.dumps([rest, tools], sort_keys=True)


def serve(
    address: str,
    jobs: int,
    memory_mb: float,
    labels: tuple[str, ...],
    *,
    dashboard_port: int | None = None,
    tls: TlsFiles = NO_TLS,
) -> None:
    """Run a worker until the scheduler stops.

    It listens on one port, of this machine's address on the route to the scheduler.

    Args:
        address: Address of the scheduler.
        jobs: Number of cells that run at the same time.
        memory_mb: Memory of all running cells together, in MB of 1e6 bytes.
        labels: Labels of this machine, for builds that require one.
        dashboard_port: Port of Dask's status pages at the same address; None serves none.
        tls: TLS files.

    Raises:
        ToolchainMissing: `distributed` is not installed.
        UsageError: The address does not answer, or the TLS files cannot be used.
    """
    try:
        from effsam_export.matrix import dask_worker
    except ImportError as error:
        raise ToolchainMissing("a cluster", "distributed", "cluster") from error
    settings = security(tls, "worker", address)
    here = keys.this_environment(labels)
    try:
        dask_worker.run(address, here, jobs, memory_mb, dashboard_port, settings, TIMEOUT_S)
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(
            f"no scheduler answers at `{address}`", hint="`dask scheduler` starts one"
        ) from error
    finally:
        worker.stop()
