"""A Dask worker that listens only where its scheduler reaches it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from distributed import Worker
from distributed.comm.addressing import get_address_host_port

from effsam_export.errors import UsageError
from effsam_export.matrix.reply import MEMORY, PLUGIN, encode_environment

if TYPE_CHECKING:
    from distributed.security import Security

    from effsam_export.matrix.keys import Environment


class SilentWorker(Worker):
    """A worker without the HTTP server that Dask starts even without a dashboard."""

    def start_http_server(self, *_: Any, **__: Any) -> None:  # noqa: ANN401 - as in Dask
        """Start nothing."""


def local_host(address: str) -> str:
    """Return this machine's IP address on the route to a scheduler; for its own, the loopback.

    Nothing is sent.

    Raises:
        UsageError: The address is malformed or unknown, or there is no route to it.
    """
    try:
        host, port = get_address_host_port(address)
        places = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, ValueError, UnicodeError) as error:
        raise UsageError(
            f"`{address}` is not the address of a scheduler: {error}",
            hint="give the address that `dask scheduler` prints, such as tcp://10.0.0.5:8786",
        ) from error
    for family, kind, protocol, _, place in places:
        with suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.connect(place)
            return str(probe.getsockname()[0])
    raise UsageError(f"there is no route to the scheduler at `{address}`", hint="check the network")


def run(
    address: str,
    environment: Environment,
    jobs: int,
    memory_mb: float,
    dashboard_port: int | None,
    security: Security | None,
    timeout_s: float,
) -> None:
    """Run a worker until its scheduler stops.

    Args:
        address: Address of the scheduler.
        environment: Properties of this machine.
        jobs: Number of cells that run at the same time.
        memory_mb: Memory of all running cells together, in MB of 1e6 bytes.
        dashboard_port: Port of Dask's status pages; None serves none.
        security: TLS files; None reads Dask's own configuration.
        timeout_s: Time for the first connection.
    """
    host = local_host(address)
    shown_host = f"[{host}]" if ":" in host else host
    pages = None if dashboard_port is None else f"{shown_host}:{dashboard_port}"

    async def work() -> None:
        running = (SilentWorker if pages is None else Worker)(
            address,
            host=host,
            nthreads=jobs,
            # Cells run in processes of their own; their memory is a resource instead.
            memory_limit=0,
            resources={MEMORY: memory_mb},
            death_timeout=timeout_s,
            dashboard=pages is not None,
            dashboard_address=pages,
            security=security,
        )
        setattr(running, PLUGIN, encode_environment(environment))
        await running
        await running.finished()  # type: ignore[no-untyped-call]

    asyncio.run(work())
