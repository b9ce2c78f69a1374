"""Choose the model of a weight file that holds several, or refuse to guess."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.errors import CheckpointError, shown
from effsam_export.weights.inert import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effsam_export.weights.candidates import Candidate

COUNTER = ".num_batches_tracked"
"""Last component of a batch norm's counter, which only training reads."""
SHOWN = 6
"""Keys that a message lists."""


def choose(found: Sequence[Candidate], key: str | None, name: str) -> Candidate:
    """Return the model to load: the user's key, or averaged weights, or the only one.

    Args:
        found: The models of the file, at least one.
        key: The user's `--checkpoint-key`: dictionary keys and prefix, or one of them.
        name: Name of the file in messages.

    Raises:
        CheckpointError: No model has this key, or several are left.
    """
    if key is not None:
        chosen = [c for c in found if _has_key(c, key.strip("."))]
        if not chosen:
            labels = _listed(found)
            raise CheckpointError(
                f"{name} has no weights under the key `{shown(key)}`",
                hint=f"it has {labels}" if labels else "leave out --checkpoint-key",
            )
    else:
        chosen = [c for c in found if not c.on_request] or list(found)
    chosen = _without_copies(_whole(chosen))
    averaged = [c for c in chosen if c.averaged]
    if len(averaged) == 1:
        return averaged[0]
    chosen = averaged or chosen
    largest = max(len(c.tensors) for c in chosen)
    # A few statistics beside the weights are no second model.
    chosen = [c for c in chosen if 2 * len(c.tensors) > largest]
    if len(chosen) > 1:
        raise CheckpointError(
            f"{name} holds {len(chosen)} sets of weights: {_listed(chosen)}",
            hint=f"choose one: --checkpoint-key {shown(chosen[0].label) or 'KEY'}",
        )
    return chosen[0]


def _has_key(candidate: Candidate, key: str) -> bool:
    """Return whether a user's key is a candidate's; the empty key is that of the top level."""
    return key == candidate.label or key in {candidate.key, candidate.prefix.rstrip(".")} - {""}


def _whole(found: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that do not lack tensors which another one has beside theirs.

    Averages of the parameters alone lack the statistics of batch norms, for example.
    """
    names = [frozenset(n for n in c.tensors if not n.endswith(COUNTER)) for c in found]
    return [c for c, own in zip(found, names, strict=True) if not any(own < o for o in names)]


def _without_copies(found: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates without those that are the same tensors of the file as an earlier."""
    kept: list[Candidate] = []
    for candidate in found:
        if not any(_are_same(candidate, other) for other in kept):
            kept.append(candidate)
    return kept


def _are_same(one: Candidate, other: Candidate) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        _is_same(value, other.tensors[name]) for name, value in one.tensors.items()
    )


def _is_same(one: object, other: object) -> bool:
    """Return whether two values are the same data: storage, offset, shape and strides."""
    if not isinstance(one, Record) or not isinstance(other, Record):
        return one is other
    if one.args and isinstance(one.args[0], Record) and other.args:
        # A parameter around its tensor.
        return _is_same(one.args[0], other.args[0])
    return one is other or one.args[:4] == other.args[:4]


def _listed(found: Sequence[Candidate]) -> str:
    labels = list(dict.fromkeys(c.label for c in found if c.label))
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return ", ".join(f"`{shown(label)}`" for label in labels[:SHOWN]) + more
