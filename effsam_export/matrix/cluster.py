"""The same cells on a Dask cluster: each goes to workers that have its toolchain.

Files travel as bytes under the hash of their contents, so that Dask moves each to a worker once;
a bundle comes back as the file that `effsam pack` writes, and is refused like a stranger's. What a
bundle follows from is taken from the worker that makes it: its versions, its system.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export.errors import ToolchainMissing, UsageError
from effsam_export.matrix import keys, worker
from effsam_export.matrix.remote import by_hash, inputs, received, remote
from effsam_export.matrix.worker import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distributed import Client

    from effsam_export.matrix.config import Cell
    from effsam_export.matrix.keys import Environment
    from effsam_export.matrix.remote import Reply
    from effsam_export.matrix.worker import Job

MEMORY = "memory_mb"
"""What a worker announces of its memory, and a cell takes of it while it runs."""
ATTEMPTS = 3
"""Times a cell is sent out before the loss of its workers is taken for its own fault."""
POLL_S = 0.5
"""How often it is asked whether a cell is done, and its workers still there."""
TIMEOUT_S = 20
"""How long a scheduler may take to answer at first."""
PLUGIN = "effsam_environment"


@dataclass(frozen=True, kw_only=True)
class Site:
    """Workers that are equal in everything a bundle follows from, as far as a cell is concerned."""

    environment: Environment
    addresses: tuple[str, ...]


def connect(address: str) -> Client:
    """Reach a scheduler.

    Raises:
        ToolchainMissing: `distributed` is not installed.
        UsageError: Nobody answers there.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ToolchainMissing("a cluster", "distributed", "cluster") from error
    try:
        # Not the process's default one: whoever calls may have another.
        return Client(  # type: ignore[no-untyped-call]
            address, timeout=TIMEOUT_S, set_as_default=False
        )
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(
            f"no scheduler answers at `{address}`",
            hint="`dask scheduler` starts one, `effsam worker --scheduler ADDRESS` a worker",
        ) from error


class Cluster:
    """Runs jobs on the workers of a scheduler.

    Args:
        client: Of the scheduler.
        requires: Target -> label that its workers have to have.

    Raises:
        UsageError: No worker of ours is there, or none with the targets and recipes of here.
    """

    def __init__(self, client: Client, requires: Mapping[str, str]) -> None:
        self._client, self._requires = client, requires
        found = client.run(announced)
        self.environments: dict[str, Environment] = {
            address: found[address] for address in sorted(found) if found[address] is not None
        }
        if not self.environments:
            raise UsageError(
                "the scheduler has no worker of effsam-export",
                hint="start one: effsam worker --scheduler ADDRESS",
            )
        # A worker reads those of its own package, and a bundle's key is made from those of here.
        ours = keys.shipped()
        self.environments = {a: e for a, e in self.environments.items() if e.shipped == ours}
        if not self.environments:
            raise UsageError(
                "no worker has the targets and recipes of this machine",
                hint="install the same effsam-export on both",
            )
        info = client.scheduler_info(n_workers=-1)["workers"]
        self._memory = {a: float(info[a]["resources"].get(MEMORY, 0)) for a in self.environments}
        self._sites: dict[str, Site] = {}

    @property
    def slots(self) -> int:
        """How many cells all workers together take at once."""
        threads: Mapping[str, int] = self._client.nthreads()  # type: ignore[no-untyped-call]
        return sum(threads[a] for a in self.environments)

    def environment(self, cell: Cell) -> Environment:
        """Of the workers that a cell goes to: of those that can do it, the most that are equal.

        Raises:
            UsageError: None can.
        """
        backend = cell.profile.backend
        label = self._requires.get(Path(cell.target).stem)
        able = {
            address: there
            for address, there in self.environments.items()
            if there.lacks(backend, cell.precision) is None
            and (label is None or label in there.labels)
        }
        if not able:
            wanted = f" labelled `{label}`" if label else ""
            raise UsageError(
                f"no worker{wanted} can do `{cell.name}`",
                hint=f"start one where everything for backend `{backend}` is installed",
            )
        groups = Counter(_relevant(e, backend, cell.precision) for e in able.values())
        most, _ = max(groups.items(), key=lambda item: (item[1], item[0]))
        equal = {a: e for a, e in able.items() if _relevant(e, backend, cell.precision) == most}
        environment = next(iter(equal.values()))
        self._sites[cell.name] = Site(environment=environment, addresses=tuple(equal))
        return environment

    def execute(self, job: Job, folder: Path) -> Answer:
        """Do a job on the cluster; as `worker.run`, with its bundle in `folder/bundle`."""
        files = inputs(job)
        why = ""
        for _ in range(ATTEMPTS):
            alive = self._alive(self._sites[job.name])
            if not alive:
                why = why or "none is left"
                break
            reply, why = self._sent(job, files, alive)
            if reply is not None:
                return received(reply, folder)
        (folder / worker.LOG).write_text(f"{why}\n", "utf-8")
        return Answer(state="failed", message=f"workers or their scheduler are gone: {why}")

    def _sent(
        self, job: Job, files: Mapping[str, bytes], alive: list[str]
    ) -> tuple[Reply | None, str]:
        """A worker's reply; or None, and what was lost instead."""
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        names, contents = by_hash(files)
        try:
            there = self._client.scatter(contents, workers=alive)  # type: ignore[no-untyped-call]
            future = self._client.submit(
                remote,
                asdict(job),
                names,
                there,
                workers=alive,
                resources={MEMORY: min(job.needs_mb, max(self._memory[a] for a in alive))},
                pure=False,
            )
            while not future.done():  # type: ignore[no-untyped-call]
                # With none of its workers left a scheduler would wait for others without end.
                if not self._alive(self._sites[job.name]):
                    future.cancel()  # type: ignore[no-untyped-call]
                    return None, "none is left"
                time.sleep(POLL_S)
            return future.result(), ""
        except (KilledWorker, FutureCancelledError, OSError, TimeoutError) as error:
            return None, f"{type(error).__name__}: {error}".splitlines()[0]

    def _alive(self, site: Site) -> list[str]:
        """Addresses of a site's workers that are still there."""
        if self._client.status != "running":
            return []
        there = self._client.scheduler_info(n_workers=-1)["workers"]
        return [a for a in site.addresses if a in there]


def announced(dask_worker: Any) -> Environment | None:  # noqa: ANN401 - distributed fills it in
    """What a worker of ours said of its machine; None of anybody else's."""
    found: Environment | None = getattr(dask_worker, PLUGIN, None)
    return found


def _relevant(environment: Environment, backend: str, precision: str) -> str:
    """What of a machine a bundle follows from, as text."""
    tools = {t: environment.tools[t] for t in keys.tools_of(backend, precision)}
    rest = {k: v for k, v in asdict(environment).items() if k not in ("tools", "labels")}
    return json.dumps([rest, tools], sort_keys=True)


def serve(address: str, jobs: int, memory_mb: float, labels: tuple[str, ...]) -> None:
    """Work for a scheduler until it is gone.

    Args:
        address: Of the scheduler.
        jobs: Cells at once.
        memory_mb: For all of them together, in MB of 1e6 bytes.
        labels: What this machine is, beyond its toolchains.

    Raises:
        ToolchainMissing: `distributed` is not installed.
        UsageError: Nobody answers there.
    """
    try:
        from distributed import Worker
    except ImportError as error:
        raise ToolchainMissing("a cluster", "distributed", "cluster") from error
    import asyncio

    async def work() -> None:
        running = Worker(
            address,
            nthreads=jobs,
            # The work is done in other processes, whose memory is counted as a resource.
            memory_limit=0,
            resources={MEMORY: memory_mb},
            death_timeout=TIMEOUT_S,
        )
        setattr(running, PLUGIN, keys.here(labels))
        await running
        await running.finished()  # type: ignore[no-untyped-call]

    try:
        asyncio.run(work())
    except (OSError, TimeoutError, ValueError) as error:
        raise UsageError(
            f"no scheduler answers at `{address}`", hint="`dask scheduler` starts one"
        ) from error
