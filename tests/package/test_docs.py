"""README and documentation stay true: console blocks run, links resolve, named files exist."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docs.from_code import TABLES, documents, fill
from effsam_export import __version__, models
from effsam_export.config import calibration as calibration_file
from effsam_export.config import fp16_recipe
from effsam_export.config import parity as parity_file
from effsam_export.config import targets as target_file
from effsam_export.matrix import config as build_file
from tests.package.guide_checkpoints import write_own_checkpoints
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable

    from effsam_export.spec.stages import Checkpoint

README = (REPOSITORY / "README.md").read_text("utf-8")
PAGES = {
    str(path.relative_to(REPOSITORY)): path.read_text("utf-8")
    for path in [
        REPOSITORY / "README.md",
        REPOSITORY / "CONTRIBUTING.md",
        REPOSITORY / "CHANGELOG.md",
        REPOSITORY / "benchmarks" / "README.md",
        *sorted((REPOSITORY / "docs").rglob("*.md")),
    ]
}
LIGHT = ("list", "targets", "info", "--version")
"""Words of commands that need no bundle, no weights and no toolchain."""
LONGEST_PARAGRAPH = 700
EXPORTED = "mobile-sam-openvino-fp32"
"""The bundle that console blocks share."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A console block of a page: its commands, each with the lines it prints."""

    page: str
    commands: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def light(self) -> bool:
        """Whether no command needs a bundle, weights or a toolchain."""
        return all(
            any(w in c.split() for w in LIGHT) and "--checkpoint" not in c for c, _ in self.commands
        )

    @property
    def name(self) -> str:
        """The page and the first command."""
        return f"{self.page}: {self.commands[0][0][:40]}"


def console_blocks() -> list[Block]:
    """Every block marked `console`."""
    blocks = []
    for page, text in PAGES.items():
        for body in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            commands: list[tuple[str, list[str]]] = []
            for line in body.splitlines():
                if line.startswith("$ "):
                    commands.append((line[2:], []))
                else:
                    commands[-1][1].append(line)
            blocks.append(Block(page=page, commands=tuple((c, tuple(s)) for c, s in commands)))
    return blocks


def plain(line: str) -> str:
    """A line without what differs from run to run: seconds, and spaces in a row."""
    return re.sub(r" +", " ", re.sub(r"\d+(\.\d s| ms)\b", "T", line)).strip()


def matches(shown: list[str], wanted: list[str]) -> bool:
    """Whether the lines are the wanted ones, where `...` stands for any number of lines."""
    pattern = "".join(
        r"(?:.*\n)*" if line == "..." else re.escape(plain(line)) + r"\n" for line in wanted
    )
    return re.fullmatch(pattern, "".join(plain(line) + "\n" for line in shown)) is not None


def paragraphs(markdown: str) -> list[str]:
    """The running text: without code blocks, tables, headings and HTML comments."""
    text = re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    parts = []
    for part in re.split(r"\n\s*\n|\n(?=[*-] |\d+\. )", text):
        lines = [
            s for s in part.splitlines() if s.strip() and not s.lstrip().startswith(("|", "#"))
        ]
        if lines:
            parts.append(" ".join(lines))
    return parts


def run_block(block: Block, folder: Path) -> None:
    """Run the commands in `folder`, and compare what they print."""
    for command, wanted in block.commands:
        program, *arguments = shlex.split(command)
        assert program == "effsam"
        done = subprocess.run(
            [sys.executable, "-m", "effsam_export", *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        # Both streams come through one pipe here; a bundle's path may come in anywhere.
        shown = [s for s in done.stdout.splitlines() if s != EXPORTED]
        expected = [s for s in wanted if s != EXPORTED]
        same = sorted(map(plain, shown)) == sorted(map(plain, expected))
        assert same or matches(shown, expected), done.stdout


def key_paths(value: object, prefix: str = "") -> set[str]:
    """Keys of a JSON document: dots between objects, `[]` for the entries of a list."""
    found: set[str] = set()
    if isinstance(value, dict):
        for key, inner in value.items():
            found |= {f"{prefix}{key}"} | key_paths(inner, f"{prefix}{key}.")
    elif isinstance(value, list):
        for inner in value:
            found |= key_paths(inner, f"{prefix.removesuffix('.')}[].")
    return found


def check_document(command: str, folder: Path, name: str) -> None:
    """Every key that a command prints is documented, and the other way round."""
    done = subprocess.run(
        [sys.executable, "-m", "effsam_export", *shlex.split(command), "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = key_paths(json.loads(done.stdout)) - {"schema_version"}
    documented = documents.documents()[name]
    free = {k.removesuffix("NAME") for k in documented if k.endswith(".NAME")}
    # A key that only holds others needs no line of its own.
    unknown = {
        k
        for k in printed - set(documented)
        if not any(d.startswith((f"{k}.", f"{k}[].")) for d in documented)
        and not any(k.startswith(f) for f in free)
    }
    assert unknown == set()
    # A list without entries, and an object that is null, show none of their keys.
    shown = {parent(k) for k in printed}
    wanted = {k for k in documented if not k.endswith("NAME") and parent(k) in shown}
    assert wanted - printed == set()


def parent(key: str) -> str:
    """The object that a key is in; empty at the top."""
    return key.rpartition(".")[0]


def test_matching_is_strict() -> None:
    assert matches(["a  1.2 s", "x", "y", "b"], ["a 3.4 s", "...", "b"])
    assert not matches(["a", "b"], ["a"])
    assert not matches(["a", "c"], ["a", "b"])


def test_paragraphs_are_found() -> None:
    text = "# T\n\none\ntwo\n\n| a |\n\n* three\n* four\n\n```sh\nfive\n\nsix\n```\n"
    assert paragraphs(text) == ["one two", "* three", "* four"]


LIGHT_BLOCKS = [b for b in console_blocks() if b.light]
HEAVY_BLOCKS = [b for b in console_blocks() if not b.light]

PYTHON_BLOCKS = [
    (page, body)
    for page, text in PAGES.items()
    for body in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    if "import effsam_export" in body
]


def test_there_are_blocks_of_all_kinds() -> None:
    assert LIGHT_BLOCKS
    assert "README.md" in [page for page, _ in PYTHON_BLOCKS]
    assert [b for b in HEAVY_BLOCKS if b.page == "README.md"]


@pytest.mark.parametrize("block", LIGHT_BLOCKS, ids=lambda b: b.name)
def test_light_console_blocks_are_true(block: Block, tmp_path: Path) -> None:
    run_block(block, tmp_path)


@pytest.fixture(scope="module")
def exported(official: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the first block of README was run: it holds an exported bundle."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "calibration").symlink_to(REPOSITORY / "calibration")
    run_block(next(b for b in HEAVY_BLOCKS if b.page == "README.md"), folder)
    write_own_checkpoints(official, folder)
    return folder


@pytest.mark.backend
@pytest.mark.weights
@pytest.mark.parametrize("block", HEAVY_BLOCKS, ids=lambda b: b.name)
def test_console_blocks_are_true(block: Block, exported: Path) -> None:
    if block.page != "README.md":
        run_block(block, exported)
    assert (exported / EXPORTED / "manifest.json").is_file()


@pytest.mark.backend
@pytest.mark.weights
@pytest.mark.parametrize(("page", "code"), PYTHON_BLOCKS)
def test_python_blocks_run(page: str, code: str, exported: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=exported, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{page}: {done.stderr}"


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("list", "list"),
        ("targets", "targets"),
        ("info edge-sam", "info"),
        ("doctor", "doctor"),
        ("cache --remove-unused 1000 --cache-dir .", "cache"),
        (f"build {REPOSITORY / 'effsam.toml'} --plan --cache-dir .", "build --plan"),
    ],
)
def test_documents_of_light_commands(command: str, name: str, tmp_path: Path) -> None:
    check_document(command, tmp_path, name)


@pytest.mark.backend
def test_the_document_of_a_comparison(
    bundle: Path, tiny_checkpoint: Checkpoint, parity_file: Path
) -> None:
    from effsam_export.pipeline.run import figures
    from effsam_export.pipeline.verify import verify

    found = verify(bundle, checkpoint=tiny_checkpoint, level="full", parity_file=parity_file)
    assert found.report is not None
    printed = key_paths(json.loads(json.dumps(figures(found.report))))
    assert printed == set(documents.parity())


@pytest.mark.backend
@pytest.mark.weights
@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("fetch mobile-sam", "fetch"),
        ("export mobile-sam --target tflite --int8 --dry-run", "export --dry-run"),
        (f"run {EXPORTED} calibration/images/coffee.jpg --point 280,140", "run"),
        (f"run {EXPORTED} calibration/images/coffee.jpg --everything --grid 2", "run --everything"),
        (f"verify {EXPORTED} --level golden", "verify --level golden"),
        ("info --checkpoint trained.pt", "info --checkpoint"),
        (f"diff {EXPORTED} {EXPORTED}", "diff"),
    ],
)
def test_documents_of_heavy_commands(command: str, name: str, exported: Path) -> None:
    check_document(command, exported, name)


@pytest.mark.parametrize("page", PAGES)
def test_no_paragraph_is_long(page: str) -> None:
    assert [p for p in paragraphs(PAGES[page]) if len(p) > LONGEST_PARAGRAPH] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_resolve(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "#")):
            assert ((REPOSITORY / page).parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page: str) -> None:
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z-]+)\b", PAGES[page], re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_site_is_built_strictly() -> None:
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    command = re.search(r"mkdocs build.*", makefile)
    assert command is not None
    # --quiet hides warnings before --strict counts them.
    assert command[0] == "mkdocs build --strict"


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str) -> None:
    roots = ("effsam_export/", "tests/", "benchmarks/", "calibration/", "docs/", ".github/", ".ci/")
    for name in re.findall(r"`([\w./-]+/[\w./-]*)`", PAGES[page]):
        if name.startswith((*roots, "targets/")) and "NAME" not in name:
            assert (REPOSITORY / name).exists(), name


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_installed_that_no_index_has(page: str) -> None:
    assert "effsam-export[" not in PAGES[page]


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120
    assert len(README.encode()) <= 6 * 1024
    assert max(map(len, README.splitlines())) <= 400


def test_readme_names_every_model_and_target() -> None:
    named = set()
    for row in re.findall(r"^\| (`.*?) \|", README, re.MULTILINE):
        first, *others = re.findall(r"`([\w-]+)`", row)
        stem = first.rpartition("-")[0]
        named |= {first, *(f"{stem}{o}" if o.startswith("-") else o for o in others)}
    assert {*models.names(), *target_file.target_names()} <= named


def test_every_table_from_code_is_on_a_page() -> None:
    asked = re.findall(r"^<!-- from code: (.+) -->$", "\n".join(PAGES.values()), re.MULTILINE)
    assert sorted(asked) == sorted(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_tables_from_code_are_whole(name: str) -> None:
    text = fill(f"<!-- from code: {name} -->\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) > 2
    # A cell that was not escaped would give a row another number of cells.
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(counts) == 1, table


def test_a_table_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError):
        fill("<!-- from code: no such table -->\n")


def toml_examples(page: str) -> list[str]:
    """The blocks of a page that are marked `toml`."""
    return re.findall(r"^```toml\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)


def test_examples_of_toml_files_are_read(tmp_path: Path) -> None:
    files: dict[str, Callable[[str], object]] = {
        "description": target_file.load_target,
        "images": calibration_file.load,
        "[[images]]": lambda path: parity_file.load_parity_images(Path(path)),
        "[[keep]]": lambda path: fp16_recipe.load(Path(path), ["encoder", "decoder"]),
        "models": lambda path: build_file.load(Path(path)),
    }
    seen = set()
    for page in PAGES:
        for text in toml_examples(page):
            first = text.split()[0]
            path = tmp_path / "example.toml"
            path.write_text(text, "utf-8")
            files[first](str(path))
            seen.add(first)
    assert seen == set(files)


def test_the_map_has_every_package() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", PAGES["docs/contributing/map.md"], re.MULTILINE)
    folders = {p.parent.name for p in (REPOSITORY / "effsam_export").glob("*/__init__.py")}
    assert folders <= set(listed)


def test_every_page_is_in_the_navigation() -> None:
    navigation = (REPOSITORY / "mkdocs.yml").read_text("utf-8")
    pages = [p.removeprefix("docs/") for p in PAGES if p.startswith("docs/")]
    assert len(pages) >= 15
    for page in pages:
        assert page in navigation, page


def test_the_changelog_has_this_version() -> None:
    assert f"## {__version__}" in (REPOSITORY / "CHANGELOG.md").read_text("utf-8")
