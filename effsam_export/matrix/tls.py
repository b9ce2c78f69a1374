"""TLS files for the connections of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from effsam_export.errors import UsageError
from effsam_export.util.files import fault_of_file
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from pathlib import Path

    from distributed.security import Security

Role = Literal["worker", "client"]
PROTOCOL = "tls://"
HINT = "give --tls-ca-file, --tls-cert and --tls-key, and an address that begins with tls://"


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """PEM files. Without any of them, Dask's own configuration decides.

    Attributes:
        ca_file: Certificate of the authority that signed those of all machines.
        cert: Certificate of this machine.
        key: Its private key; None if `cert` holds it too.
    """

    ca_file: Path | None = None
    cert: Path | None = None
    key: Path | None = None


def security(files: TlsFiles, role: Role, address: str) -> Security | None:
    """Return Dask's security settings; None without files for an address without TLS.

    Raises:
        UsageError: A file is missing or cannot be used, or the address is not one of TLS.
    """
    from distributed.security import Security

    named = {"--tls-ca-file": files.ca_file, "--tls-cert": files.cert, "--tls-key": files.key}
    given = {option: path for option, path in named.items() if path is not None}
    encrypted = address.startswith(PROTOCOL)
    if not given and not encrypted:
        return None
    problems = [f"`{p}` of {o} {fault}" for o, p in given.items() if (fault := fault_of_file(p))]
    if given:
        required = ("--tls-ca-file", "--tls-cert")
        problems += [f"{option} is missing" for option in required if option not in given]
        if not encrypted:
            problems.append(f"`{address}` is not an address of TLS, {PROTOCOL}HOST:PORT")
        settings = Security(  # type: ignore[no-untyped-call]
            require_encryption=True,
            **{
                "tls_ca_file": str(files.ca_file),
                f"tls_{role}_cert": str(files.cert),
                f"tls_{role}_key": None if files.key is None else str(files.key),
            },
        )
    else:
        settings = Security()  # type: ignore[no-untyped-call]
        configured = settings.get_tls_config_for_role(role)  # type: ignore[no-untyped-call]
        if not configured["ca_file"] or not configured["cert"]:
            problems.append(f"`{address}` needs TLS files")
    if problems:
        raise UsageError("; ".join(problems), hint=HINT)
    try:
        settings.get_connection_args(role)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the TLS files cannot be used: {reason_of(error)}",
            hint="give PEM files; the key has to be that of the certificate",
        ) from error
    return settings
