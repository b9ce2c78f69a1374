"""Keys of the document of `effsam bench`."""

from __future__ import annotations

from docs.from_code.keys import Keys, of, under
from effsam_export.util.machine import Machine

MACHINE: Keys = {
    "cpu": "name of the processor",
    "cores": "cores that a process may use",
    "cpu_flags": "processor features that matter here",
    "system": "system and processor",
    "python": "version of Python",
}
BENCH_BUNDLE: Keys = {
    "bundle": "the bundle, as it was given",
    "model": "model",
    "target": "target",
    "precision": "precision",
    "components": "its graphs",
    "runtime": "package and version of its runtime",
    "threads": "number of CPU threads, or null where the runtime chooses it",
    "prompts_per_call": "largest number of prompts of one call of the decoder; null for any "
    "number, 0 without a decoder",
    "images_per_call": "number of images in one call of the encoder",
    "bytes": "size of the files that a runtime opens",
    "notes": "what its figures leave out or mean, in words",
    "not_timed": "why it cannot be timed on this machine, or null",
    "failure": "why measuring it failed, or null",
    "open_ms": "time to check and load its graphs once, or null",
    "one_prompt_peak_bytes": "peak memory of its process after the first image and prompt, or null",
    "peak_bytes": "the same after 64 prompts, or null",
    "latency_ms.NAME": "`p50`, `p90` and `min` of a task: `encoder`, `prompts_1`, `prompts_8`, "
    "`prompts_64`, `first_mask`; a task is there only if the bundle can do it",
}


def document() -> Keys:
    """Return the keys without `schema_version`."""
    return {
        **of(Machine, MACHINE, "machine."),
        "image.file": "name of the image",
        "image.width": "pixels",
        "image.height": "pixels",
        "warm_up": "calls of each task before the timed ones",
        "repeats": "timed calls of each task",
        "threads": "number of threads that was asked for, or null",
        **under("bundles[].", BENCH_BUNDLE),
    }
