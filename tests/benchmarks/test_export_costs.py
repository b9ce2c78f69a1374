"""The expected cost of exports is that of the measured results."""

from __future__ import annotations

from benchmarks import export_costs
from effsam_export import backends, models
from effsam_export.models.export_costs import PATH, cost_of


def test_the_table_is_that_of_the_results() -> None:
    assert PATH.read_text("utf-8") == export_costs.text()


def test_numbers_are_rounded() -> None:
    assert [export_costs.rounded(v) for v in (1.4, 27.3, 466, 1684.5)] == [1, 27, 470, 1700]


def test_every_export_has_a_size() -> None:
    for name in models.names():
        for backend, entry in backends.BACKENDS.items():
            for precision in entry.precisions:
                assert cost_of(name, backend, precision).size_mb, (name, backend, precision)


def test_a_measured_cost() -> None:
    cost = cost_of("mobile-sam", "openvino", "fp32")
    assert (cost.seconds, cost.memory_mb, cost.size_mb) == (27, 1500, 45)
    assert cost_of("mobile-sam", "tensorrt", "fp16") == cost_of("mobile-sam", "onnx", "fp16")
    unknown = cost_of("sam-vit-l", "tflite", "int8")
    assert (unknown.seconds, unknown.memory_mb) == (None, None)
