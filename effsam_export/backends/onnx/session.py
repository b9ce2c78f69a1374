"""Open an ONNX file in ONNX Runtime, on the asked execution provider or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime

from effsam_export.errors import CheckFailed
from effsam_export.spec.tensors import ReportedTensor, Signature
from effsam_export.util import cpu
from effsam_export.util.reasons import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effsam_export.spec.tensors import Feeds

CPU = "CPUExecutionProvider"
DTYPES = {"float": "float32", "double": "float64"}
"""ONNX's names of types that numpy calls otherwise."""
RECORD_PROVIDERS = "session.record_ep_graph_assignment_info"
"""Session option: record which provider runs which node. Source: ONNX Runtime 1.24,
`onnxruntime_session_options_config_keys.h`; older versions ignore it."""
SHRINK_ARENA = "memory.enable_memory_arena_shrinkage"
"""Run option: give the arena's unused memory back after the run. Source: ONNX Runtime 1.32,
`onnxruntime_run_options_config_keys.h`."""
LARGE_FEEDS = 8_000_000
"""Bytes of inputs after which the arena gives its memory back: an embedding and 16 prompts."""


class OnnxSession:
    """An ONNX file, or its bytes, loaded in ONNX Runtime.

    Args:
        model: Path or bytes of the file.
        provider: Execution provider, as ONNX Runtime names it.
        threads: Threads of an operator on the CPU; None for one per physical core.
        arena: Keep memory for the next call, on the CPU. Without it, the system has to give and
            clear the memory of each large intermediate again.

    Raises:
        CheckFailed: ONNX Runtime cannot load the file, or would run it on another provider.
    """

    def __init__(
        self,
        model: Path | bytes,
        provider: str,
        threads: int | None = None,
        *,
        arena: bool = False,
    ) -> None:
        self._name = f"`{model.name}`" if isinstance(model, Path) else "the graph"
        check_available(provider)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = arena
        if threads is not None:
            options.intra_op_num_threads = threads
        if not cpu.int8_flags():
            # Without VNNI, the sum of two products of UINT8 and INT8 may overflow 16 bits. This
            # option uses UINT8 weights, which do not overflow.
            options.add_session_config_entry("session.x64quantprecision", "1")
        if provider != CPU:
            options.add_session_config_entry(RECORD_PROVIDERS, "1")
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(model) if isinstance(model, Path) else model,
                sess_options=options,
                providers=[provider],
                # By default a provider that fails is replaced by the CPU, with a note on stdout.
                enable_fallback=False,
            )
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise CheckFailed(
                f"ONNX Runtime cannot open {self._name} with `{provider}`: {first_line(error)}"
            ) from error
        check_provider(self._session, provider)
        self._names = [o.name for o in self._session.get_outputs()]
        self._shrinking: Any = None
        if arena and provider == CPU:
            self._shrinking = onnxruntime.RunOptions()
            self._shrinking.add_run_config_entry(SHRINK_ARENA, "cpu:0")

    def run(self, feeds: Feeds) -> Feeds:
        """Run once; return the outputs by name.

        Raises:
            CheckFailed: ONNX Runtime cannot run the graph on these inputs.
        """
        try:
            large = sum(value.nbytes for value in feeds.values()) > LARGE_FEEDS
            results = self._session.run(None, dict(feeds), self._shrinking if large else None)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise CheckFailed(
                f"ONNX Runtime cannot run {self._name}: {first_line(error)}"
            ) from error
        return dict(zip(self._names, results, strict=True))

    def signature(self) -> Signature:
        """Return the graph's inputs and outputs."""
        return Signature(
            inputs=tuple(reported(t) for t in self._session.get_inputs()),
            outputs=tuple(reported(t) for t in self._session.get_outputs()),
        )


def check_available(provider: str) -> None:
    """Check that the installed ONNX Runtime has a provider, before a graph is loaded.

    Raises:
        CheckFailed: It does not, and would use the CPU.
    """
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise CheckFailed(
            f"the target asks ONNX Runtime for `{provider}`, and it would give `{CPU}`: this "
            f"installation has {listed(available)}",
            hint="install the ONNX Runtime package with that provider (`onnxruntime-gpu` has "
            "CUDA), or export with --option provider=CPUExecutionProvider",
        )


def check_provider(session: Any, provider: str) -> None:  # noqa: ANN401 - an object without types
    """Check that a session runs on the asked provider.

    A provider may leave some nodes to the CPU, but not all.

    Raises:
        CheckFailed: The session has another provider, or every node runs on another one.
    """
    given: list[str] = session.get_providers()
    if provider in given and provider != CPU:
        # Empty for ONNX Runtime before 1.24, and for a graph without nodes.
        given = providers_of_nodes(session) or given
    if provider not in given:
        raise CheckFailed(
            f"the target asks ONNX Runtime for `{provider}`, and it gives {listed(given)}",
            hint="install the driver and libraries of that provider, or export with --option "
            "provider=CPUExecutionProvider",
        )


def providers_of_nodes(session: Any) -> list[str]:  # noqa: ANN401 - an object without types
    """Return the names of the providers that run a node of a session, if they were recorded."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    return sorted({part.ep_name for part in session.get_provider_graph_assignment_info()})


def listed(names: Sequence[str]) -> str:
    """Return names in backticks, separated by commas."""
    return ", ".join(f"`{name}`" for name in names) or "none"


def first_line(error: Exception) -> str:
    """Return the first line of a runtime's message without control characters."""
    text = next(iter(str(error).splitlines()), type(error).__name__)
    return "".join(c if c.isprintable() else "?" for c in text)[:300]


def reported(tensor: Any) -> ReportedTensor:  # noqa: ANN401 - an object without types
    """Return an input or output of a session: its type is `tensor(float)`, or no tensor's."""
    kind = str(tensor.type).removeprefix("tensor(").removesuffix(")")
    return ReportedTensor(
        name=str(tensor.name),
        shape=tuple(size if isinstance(size, int) else None for size in tensor.shape),
        dtype=DTYPES.get(kind, kind),
    )
