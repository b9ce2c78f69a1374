"""What was read from a weight file: for messages, JSON documents and the bundle's manifest."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effsam_export.errors import shown
from effsam_export.weights.choice import COUNTER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from effsam_export.spec.stages import Checkpoint, LoraFile
    from effsam_export.weights.read import Origin, Weights

MEDSAM = (
    "MedSAM prepares an image in another way than SAM: squashed to 1024x1024, and scaled by its "
    "own minimum and maximum; your app has to do so, `effsam run` does not"
)
NAMINGS = {
    # `Origin.naming` -> what was done.
    "transformers": "names converted from transformers'",
    "SlimSAM's training": "separate queries, keys and values joined",
}
MAX_GROUPS = 4
"""Groups of names that a note lists."""


@dataclass(frozen=True, kw_only=True)
class WeightFacts:
    """What was read from a weight file, and what was done to its names.

    Attributes:
        origin: Where in the file they were.
        tensors: Number of tensors of the file that were loaded.
        weights_sha256: See `weights_sha256`.
        base_sha256: SHA-256 of the file that supplied the other parts; None without `--base`.
        lora: The adapter that was merged into the weights; None without `--lora`.
        masks: Number of masks of a prompt, if it is not the model's own; else None.
        warning: What its file's name says of another use; empty if nothing.
    """

    origin: Origin
    tensors: int
    weights_sha256: str
    base_sha256: str | None
    lora: LoraFile | None
    masks: int | None = None
    warning: str = ""

    @property
    def note(self) -> str:
        """What was done, in one line; empty for a file that has just the authors' state dict."""
        origin = self.origin
        words = [f'under "{shown(origin.key)}"'] if origin.key else []
        words += [f'prefix "{shown(origin.prefix)}" taken off'] if origin.prefix else []
        words += ["averaged weights"] if origin.averaged else []
        words += [NAMINGS[origin.naming]] if origin.naming else []
        if origin.left_out:
            count = len(origin.left_out)
            entries = "entry" if count == 1 else "entries"
            words.append(f"{count} {entries} left out ({grouped(origin.left_out)})")
        words += [f"{self.masks} masks for a prompt"] if self.masks else []
        words += ["the other parts from --base"] if self.base_sha256 else []
        words += ["--lora merged"] if self.lora else []
        if not words:
            return ""
        # The place follows the number without a comma: `439 tensors under "model"`.
        comma = "" if origin.key else ","
        return f"{self.tensors} tensors{comma} {', '.join(words)}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user; none for a file that has just the authors' state dict."""
        return tuple(text for text in (self.note, self.warning) if text)

    def document(self) -> dict[str, Any]:
        """Return the facts as a JSON object."""
        return {
            **self.origin.document(),
            "weights_sha256": self.weights_sha256,
            **({} if self.base_sha256 is None else {"base_sha256": self.base_sha256}),
            **(
                {}
                if self.lora is None
                else {"lora": {"sha256": self.lora.sha256, "alpha": self.lora.alpha}}
            ),
        }


def facts_of(
    weights: Weights, state: Mapping[str, Tensor], checkpoint: Checkpoint, *, masks: int | None
) -> WeightFacts:
    """Return what was read from a file.

    Args:
        weights: The file's tensors.
        state: All tensors that the model loads, under its own names.
        checkpoint: The file.
        masks: Number of masks of a prompt, if it is not the model's own.
    """
    return WeightFacts(
        origin=weights.origin,
        tensors=len(weights.state),
        weights_sha256=weights_sha256(state),
        base_sha256=None if checkpoint.base is None else checkpoint.base.sha256,
        lora=checkpoint.lora,
        masks=masks,
        # Names and shapes are those of SAM ViT-B, so only the file's name can tell.
        warning=MEDSAM if "medsam" in checkpoint.path.name.lower() else "",
    )


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 of the weights, which does not depend on the file's format.

    It is over the tensors that a model loads, without the counters of batch norms, sorted by name:
    for each, its name in UTF-8, then its values in row-major order as little-endian float32.
    """
    import numpy as np

    digest = hashlib.sha256()
    for name in sorted(state):
        if not name.endswith(COUNTER):
            digest.update(name.encode("utf-8", "surrogatepass"))
            values = state[name].detach().float().contiguous().numpy()
            digest.update(np.ascontiguousarray(values, dtype="<f4").view(np.uint8).data)
    return digest.hexdigest()


def grouped(names: Iterable[str]) -> str:
    """Return names by their first component, as `criterion.*, fpn.*`."""
    groups = Counter(n.partition(".")[0] + (".*" if "." in n else "") for n in names)
    listed = [shown(group) for group, _ in groups.most_common(MAX_GROUPS)]
    more = len(groups) - len(listed)
    return ", ".join(listed) + (f" and {more} more" if more else "")
