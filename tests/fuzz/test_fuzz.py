"""Each reader, with thousands of inputs that atheris and hypothesis make."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("atheris")
pytest.importorskip("torch")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bundle import fake
from tests.fuzz import readers
from tests.paths import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(3600)]

RUNS = 20_000
LIMITS = ("-rss_limit_mb=2048", "-timeout=10", "-max_len=65536", "-seed=1")
NUMBERS = st.one_of(st.integers(), st.floats(), st.integers(10**18, 10**30))
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=30))
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)

MANY = settings(
    max_examples=RUNS,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("name", readers.READERS)
def test_bytes(name: str, tmp_path: Path) -> None:
    """No exception but an `EffsamError`, at most 2 GB with torch, 10 s an input."""
    command = [sys.executable, "-m", "tests.fuzz.run", name, str(tmp_path), f"-runs={RUNS}"]
    done = subprocess.run(
        [*command, *LIMITS], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    findings = sorted(p.name for p in tmp_path.glob("finding-*"))
    assert done.returncode == 0, (findings, done.stderr[-4000:])
    assert f"Done {RUNS} runs" in done.stderr
    print(done.stderr.splitlines()[-1])


def replaced(document: object, place: int, value: object) -> Any:  # noqa: ANN401 - any tree
    """A copy of a tree of tables and lists with one of its values replaced; of a leaf, `value`."""
    if not isinstance(document, (dict, list)) or not document:
        return value
    copy: Any = document.copy()
    keys = list(copy) if isinstance(copy, dict) else range(len(copy))
    key = keys[place % len(keys)]
    rest = place // len(keys)
    copy[key] = value if rest % 4 == 0 else replaced(copy[key], rest // 4, value)
    return copy


@MANY
@given(place=st.integers(0, 2**48), value=VALUES)
def test_values_of_a_manifest(
    place: int, value: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One value of a right manifest is another one."""
    import json

    document = json.loads(fake.GOLDEN.read_text("utf-8"))
    content = json.dumps(replaced(document, place, value)).encode()
    readers.read("manifest", content, tmp_path_factory.getbasetemp())


@MANY
@given(file=st.integers(0, 63), place=st.integers(0, 2**48), value=VALUES)
def test_values_of_a_toml_file(
    file: int, place: int, value: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import tomli_w

    contents = list(readers.seeds("toml"))
    document = tomllib.loads(contents[file % len(contents)].decode())
    try:
        content = tomli_w.dumps(replaced(document, place, value)).encode()
    except (TypeError, AttributeError, ValueError):
        return  # TOML has no null, and no document but a table.
    readers.read("toml", content, tmp_path_factory.getbasetemp())
