"""What docstrings and pages cite can be opened by a reader of the repository."""

import re
from pathlib import Path

import pdoc
import pytest

import geometry

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "configs", "data", "docs", "geometry", "models", "notebooks", "render", "tests", "training")
SUFFIXES = {".py", ".md", ".txt", ".ipynb"}
FILES = sorted(
    path.relative_to(ROOT)
    for path in [*ROOT.glob("*"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    if path.suffix in SUFFIXES and path.is_file() and path != Path(__file__)
)
UNREADABLE = re.compile(
    r"\bspec/|\btraining facts\b|\bspecification,?( sections?)? \d|\bspec \d|\(sections? \d|\bshared/[\w/]*\.(md|txt)\b"
    r"|\b(house|moves|STYLE)\.md\b"
)
"""Notes outside the repository; also a bare "(section 3", which names no document."""
CITED = re.compile(r'\bdocs/([\w/-]+\.md)((?:(?:,| and) "[^"]+")*)')
"""docs/page.md, "Title" and "Title"."""
HEADING = re.compile(r"^#+ +(?:\d+\. +)?(.+?) *$", re.MULTILINE)


def unreadable(text: str) -> list[str]:
    return [match.group() for match in UNREADABLE.finditer(text)]


def citations(text: str) -> list[tuple[str, str | None]]:
    """Page and title (None: the page as a whole) of every citation, also of one that goes on in the next line."""
    pairs = []
    for match in CITED.finditer(re.sub(r"\s+(?:# )?", " ", text)):
        titles = re.findall(r'"([^"]+)"', match.group(2))
        pairs += [(match.group(1), title) for title in titles or [None]]
    return pairs


def titles(text: str) -> set[str]:
    return set(HEADING.findall(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_citations_can_be_opened(path: Path) -> None:
    text = (ROOT / path).read_text()
    assert not unreadable(text)
    for page, title in citations(text):
        assert (ROOT / "docs" / page).is_file(), page
        assert title is None or title in titles((ROOT / "docs" / page).read_text()), (page, title)


def test_sections_are_cited() -> None:
    """The check above has something to check: the network's docstrings name sections of its page."""
    named = {title for path in FILES if path.suffix == ".py" for page, title in citations((ROOT / path).read_text())}
    assert {"Camera head", "Dense heads", "Track head", "Optimizer and schedule"} <= named


def test_what_counts_as_a_citation() -> None:
    for note in (
        "spec/a.md 6.1",
        "(training facts, 5.2)",
        "specification section 3",
        "(section 2.1, 3.1)",
        "(spec 6.5)",
    ):
        assert len(unreadable(note)) == 1, note
    assert unreadable("of `../shared/peer/README.md`") == ["shared/peer/README.md"]
    for fine in ("--datadir ../shared/data/dtu", "(Sun et al. 2021, section 3.6)", "specular", "inspect/"):
        assert unreadable(fine) == []
    text = 'See docs/a.md, "One title" and "Another\n    title"; docs/b.md, which ... docs/c/d.md, "Two".'
    assert citations(text) == [("a.md", "One title"), ("a.md", "Another title"), ("b.md", None), ("c/d.md", "Two")]
    assert titles("# A page\n\n## 12. A title\n```\n# no title\n```\n") == {"A page", "A title"}


def test_pages_of_the_interface_are_made_from_docstrings(tmp_path: Path) -> None:
    """What `make api-docs` does, for one package: every public name has its place, what it raises is a section."""
    try:
        pdoc.render.configure(docformat="google")
        pdoc.pdoc("geometry", output_directory=tmp_path)
    finally:
        pdoc.render.configure()
    page = (tmp_path / "geometry.html").read_text()
    assert [name for name in geometry.__all__ if f'id="{name}"' not in page] == []
    assert '<h6 id="raises">Raises:</h6>' in page
