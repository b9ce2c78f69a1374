"""The tables of rules agree with each other and with the backends there are."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from effsam_export.backends import BACKENDS
from effsam_export.config import targets as profiles
from effsam_export.lint.rules import APPLIES, RULES, kind_of, rules_for
from tests.lint.tools import target

pytestmark = pytest.mark.backend


def test_every_backend_has_rules() -> None:
    assert set(BACKENDS) <= set(APPLIES)


@pytest.mark.parametrize("kind", APPLIES)
def test_a_kind_of_target_names_rules_that_exist_once(kind: str) -> None:
    names = APPLIES[kind]

    assert set(names) <= set(RULES)
    assert len(set(names)) == len(names)


def test_every_rule_holds_somewhere() -> None:
    assert {name for names in APPLIES.values() for name in names} == set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_reasons_and_rewrites_are_sentences_in_the_house_style(name: str) -> None:
    rule = RULES[name]

    for text in (rule.why, rule.rewrite):
        assert text
        assert not text.endswith(".")
    assert not rule.measured or rule.fp16


@pytest.mark.parametrize(
    ("backend", "options", "kind"),
    [
        ("onnx", {}, "onnx"),
        ("tflite", {}, "tflite"),
        ("tflite", {"delegate": "xnnpack"}, "tflite"),
        ("tflite", {"delegate": "gpu"}, "tflite-gpu"),
        ("coreml", {}, "coreml"),
        ("coreml", {"compute_units": "CPU_AND_NE"}, "coreml"),
        ("coreml", {"compute_units": "CPU_ONLY"}, "coreml-cpu"),
        ("tensorrt-rtx", {}, "tensorrt-rtx"),
    ],
)
def test_the_kind_of_a_target(backend: str, options: dict[str, str], kind: str) -> None:
    assert kind_of(target(backend, "fp16", **options)) == kind


def test_rules_of_fp16_do_not_hold_in_fp32() -> None:
    assert rules_for(target("onnx", "fp32")) == ()
    assert rules_for(target("onnx", "fp16")) == (
        "fp16-operator",
        "tiny-eps",
        "huge-constant",
        "overflow",
        "norm-squares",
        "sums",
    )


def test_only_the_delegate_has_four_axes() -> None:
    assert "rank-4" not in rules_for(target("tflite", "fp32"))
    assert "rank-4" in rules_for(target("tflite", "fp32", delegate="gpu"))


@pytest.mark.parametrize("name", profiles.target_names())
def test_every_shipped_target_has_a_kind(name: str) -> None:
    assert kind_of(profiles.load_target(name)) in APPLIES
