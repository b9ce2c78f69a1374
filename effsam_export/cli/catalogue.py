"""`effsam list`, `targets` and `doctor`. Nothing heavy is imported."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from effsam_export.cli import console, tables
from effsam_export.cli.options import CacheDir, Json

if TYPE_CHECKING:
    from effsam_export.spec.model import WeightFile


def list_models(json: Json = False) -> None:
    """List the models: verification state, licence, checkpoint size.

    `verified`: checked against the authors' code with the official weights. `architecture
    verified`: checked with generated weights, because the official ones were not available.
    """
    from effsam_export import models

    specs = [models.get(name) for name in models.names()]
    if json:
        rows = [
            {
                "name": s.name,
                "title": s.title,
                "state": s.state,
                "licence": s.licence.spdx,
                "paper": s.paper,
                "origin": s.origin,
                "components": [c.name for c in s.components],
                "checkpoint": None
                if s.weights is None
                else {
                    "file_name": s.weights.file_name,
                    "sha256": s.weights.sha256,
                    "size": s.weights.size,
                },
            }
            for s in specs
        ]
        console.document({"models": rows})
        return
    header = ("model", "state", "licence", "checkpoint", "what")
    table = [
        [
            s.name,
            s.state,
            s.licence.spdx,
            weight_size(s.weights),
            s.title,
        ]
        for s in specs
    ]
    console.data(console.table(header, table))


def weight_size(weights: WeightFile | None) -> str:
    """Return the size of a checkpoint as text."""
    if weights is None:
        return "none published"
    return "size unknown" if weights.size is None else f"{weights.size / 1e6:.1f} MB"


def list_targets(json: Json = False) -> None:
    """List the targets, their precisions, and what is installed here."""
    from effsam_export import backends
    from effsam_export.config import targets as profiles

    targets = [profiles.load_target(name) for name in profiles.target_names()]
    if json:
        rows = [
            {
                "name": t.name,
                "description": t.description,
                "backend": t.backend,
                "precisions": list(t.precisions),
                "default_precision": t.precision,
                "available": backends.available(t.backend),
            }
            for t in targets
        ]
        console.document({"targets": rows})
        return
    table = []
    for t in targets:
        entry = backends.BACKENDS[t.backend]
        available = "yes" if backends.available(t.backend) else f"needs [{entry.extra}]"
        table.append([t.name, t.backend, " ".join(t.precisions), available, t.description])
    console.data(
        console.table(("target", "backend", "precisions, default first", "here", "what"), table)
    )


def doctor(json: Json = False, cache_dir: CacheDir = None) -> None:
    """Show what this machine can do, to paste into an issue.

    Prints package versions, CPU features, GPUs, memory, disk space and available targets.
    """
    from effsam_export.cli.diagnose import diagnose
    from effsam_export.weights.fetch import default_cache_dir

    facts = diagnose(cache_dir or default_cache_dir())
    if json:
        content = {**asdict(facts), "cache_dir": str(facts.cache_dir)}
        console.document(content)
        return
    memory = f"{facts.memory_gb:.0f} GB" if facts.memory_gb else "unknown"
    head = [
        f"effsam-export {facts.version}, Python {facts.python}, {facts.system}",
        f"cores {facts.cores} ({' '.join(facts.cpu_flags) or 'flags unknown'}), memory {memory}, "
        f"{facts.disk_free_gb:.0f} GB free for the cache",
        f"GPU {'; '.join(facts.gpus) or 'none found by `nvidia-smi`'}",
        f"cache {facts.cache_dir}",
    ]
    lines = [
        "",
        console.table(
            ("package", "version"), [[n, v or "not installed"] for n, v in facts.packages.items()]
        ),
        "",
        f"tracing models: {'yes' if facts.can_trace else 'needs [torch]'}",
        console.table(
            ("target", "here"),
            [
                [t.name, "yes" if t.missing is None else f"needs `{t.missing}`: [{t.extra}]"]
                for t in facts.targets
            ],
        ),
    ]
    width = tables.width_of(sys.stdout)
    head = [tables.fill(line, width, "    ") for line in head]
    console.data("\n".join([*head, *lines]))
