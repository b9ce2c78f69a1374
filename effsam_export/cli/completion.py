"""Values that the shell completes. Nothing heavy is imported: it happens at each press of Tab."""

from __future__ import annotations

# Typer reads the annotations of these functions at run time.
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
COMPONENTS = ("all", "encoder", "decoder", "segmenter")


def _starting(names: tuple[str, ...], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def model_names(incomplete: str) -> list[str]:
    """Return the models whose names start with a text."""
    from effsam_export import models

    return _starting(models.names(), incomplete)


def target_names(incomplete: str) -> list[str]:
    """Return the targets whose names start with a text."""
    from effsam_export.config import targets

    return _starting(targets.target_names(), incomplete)


def precisions(incomplete: str) -> list[str]:
    """Return the precisions whose names start with a text."""
    return _starting(PRECISIONS, incomplete)


def components(incomplete: str) -> list[str]:
    """Return the components whose names start with a text, and `all`."""
    return _starting(COMPONENTS, incomplete)


def languages(incomplete: str) -> list[str]:
    """Return the languages of generated code whose names start with a text."""
    from effsam_export import integrate

    return _starting(tuple(integrate.LANGUAGES), incomplete)
