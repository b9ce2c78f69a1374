"""Gather errors of independent checks, to show them all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.errors import MAX_JOINED, EffsamError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType


class SeveralProblems(UsageError):
    """Several errors at once, a line each, with its hint.

    Args:
        what: Begins the message, as in `{what}: 3 problems`.
        errors: The errors, at least two.
    """

    def __init__(self, what: str, errors: Sequence[EffsamError]) -> None:
        self.errors = tuple(errors)
        lines = [f"{e.message} ({e.hint})" if e.hint else e.message for e in errors]
        more = len(lines) - MAX_JOINED
        super().__init__(
            f"{what}: {len(lines)} problems",
            lines=lines[:MAX_JOINED] + ([f"and {more} more"] if more > 0 else []),
        )


class Problems:
    """Errors that were raised in its blocks, in their order."""

    def __init__(self) -> None:
        self.errors: list[EffsamError] = []

    def gather(self) -> Gathering:
        """Keep an error of this package that ends the block, and go on after the block."""
        return Gathering(self)

    def add(self, error: EffsamError) -> None:
        """Keep an error; of several at once, each of them."""
        self.errors += error.errors if isinstance(error, SeveralProblems) else [error]

    def raise_any(self, what: str) -> None:
        """Raise the error that was kept, or one that lists several.

        Raises:
            EffsamError: The only error, unchanged.
            SeveralProblems: There are several; its message begins with `what`.
        """
        unique = list({(e.message, e.hint): e for e in self.errors}.values())
        if len(unique) == 1:
            raise unique[0]
        if unique:
            raise SeveralProblems(what, unique)


class Gathering:
    """The block of `Problems.gather`. A class, so that type checkers know that errors end here."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(value, EffsamError):
            return False
        self._problems.add(value)
        return True
