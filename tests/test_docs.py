"""The documentation: its links, the code that it quotes, its commands, and the Korean pages beside the English ones."""

from __future__ import annotations

import ast
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY

from gan_dist import train
from gan_dist.cli import COMMANDS

PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("launch/*.md")])
WALKTHROUGHS = [REPOSITORY / "docs" / name for name in ("notebook.md", "notebook.ko.md")]
PAIRS = [(REPOSITORY / "README.md", REPOSITORY / "README.ko.md"), tuple(WALKTHROUGHS)]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\[\]]*\]\(([^()\s]+)\)")
NAMES = re.compile(r"\]\(\.\./(gan_dist/[\w/]+\.py)\):((?:,?\s`\w+`)+)")  # [`file`](../file): `name`, `name`


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return BLOCK.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def quotations() -> Iterator[tuple[Path, str, str]]:
    """(page, file, lines) of the blocks that begin with the name of a file."""
    for page in WALKTHROUGHS:
        for _, block in BLOCK.findall(page.read_text()):
            first, _, rest = block.partition("\n")
            if match := re.fullmatch(r"# (gan_dist/\S+\.py)", first):
                yield page, match[1], rest


def defined(file: Path) -> set[str]:
    """The names of a module's functions and classes, methods included."""
    nodes = ast.walk(ast.parse(file.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def commands(page: Path) -> list[str]:
    """The commands of a page's shell blocks, with continued lines joined. Those of extending.md need what it adds:
    test_extending.py runs them."""
    if page.name == "extending.md":
        return []
    blocks = "".join(block for language, block in BLOCK.findall(page.read_text()) if language == "bash")
    return [line for line in blocks.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", WALKTHROUGHS, ids=lambda page: page.name)
def test_names_beside_a_file_are_defined_in_it(page: Path) -> None:
    found = NAMES.findall(page.read_text())
    assert len(found) > 20
    for file, names in found:
        assert set(re.findall(r"\w+", names)) <= defined(REPOSITORY / file), (file, names)


def test_quoted_code_is_in_the_package() -> None:
    found = list(quotations())
    assert len(found) > 20
    for page, file, lines in found:
        text, depths = (REPOSITORY / file).read_text(), range(0, 24, 4)
        indented = [f"\n{textwrap.indent(lines, ' ' * depth)}" for depth in depths]
        assert any(block in text for block in indented), f"{page.name}: {file} does not contain\n{lines}"


def test_the_cells_of_the_notebook_are_python() -> None:
    for language, block in BLOCK.findall(WALKTHROUGHS[0].read_text()):
        if language == "python" and not block.startswith("# gan_dist/"):
            ast.parse(textwrap.dedent(block))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_accepted(page: Path) -> None:
    for command in commands(page):
        words = shlex.split(command, comments=True)
        if "gan_dist/train.py" in words:
            train.parse(words[words.index("gan_dist/train.py") + 1 :])
        elif words[:1] == ["gan-dist"]:
            assert words[1] in COMMANDS, command
            if words[1] == "train":
                train.parse(words[2:])


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].name)
class TestTranslation:
    """A Korean page differs from the English one only in its words."""

    def test_the_code_is_the_same(self, pair: tuple[Path, Path]) -> None:
        english, korean = (BLOCK.findall(page.read_text()) for page in pair)
        assert korean == english

    def test_the_links_are_the_same(self, pair: tuple[Path, Path]) -> None:
        english, korean = (LINK.findall(prose(page)) for page in pair)
        assert english[0] == pair[1].name
        assert korean[0] == pair[0].name
        # Word order differs between the languages. A Korean page links to Korean ones, where there are any.
        translated = [target.replace(".ko.md", ".md") for target in korean[1:]]
        assert sorted(translated) == sorted(english[1:])

    def test_the_structure_is_the_same(self, pair: tuple[Path, Path]) -> None:
        def structure(page: Path) -> list[str]:
            kinds = re.findall(r"^(#+ |- |\||!|<!-- \w+ -->)", prose(page), re.MULTILINE)
            return [kind.strip() for kind in kinds]

        english, korean = map(structure, pair)
        assert korean == english

    def test_numbers_and_code_in_tables_are_the_same(self, pair: tuple[Path, Path]) -> None:
        def rows(page: Path) -> list[list[str]]:
            lines = re.findall(r"^\|.*$", prose(page), re.MULTILINE)
            return [sorted(re.findall(r"`[^`]+`|\d[\d.,]*\d|\d", line)) for line in lines]

        english, korean = map(rows, pair)
        assert korean == english
