"""Every message that docs/troubleshooting.md quotes is one that the code has."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.test_docs import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
QUOTED = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
_GAP = "\0"
"""In place of what a message fills in."""


def messages(text: str) -> Iterator[str]:
    """Literals of a file: `f"a {b}"` becomes "a " and a gap; what adjoins or is added is one."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
            yield _literal(node)


def _literal(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else _GAP
    if isinstance(node, ast.JoinedStr):
        return "".join(_literal(value) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _literal(node.left) + _literal(node.right)
    return _GAP


@pytest.fixture(scope="module")
def known() -> str:
    folders = ("geometry", "data", "models", "training", "render")
    texts = [path.read_text() for name in folders for path in sorted((ROOT / name).rglob("*.py"))]
    starts = [max(quoted.split("..."), key=len)[:12] for quoted in QUOTED]
    texts = [text for text in texts if any(start in text for start in starts)]  # parsing all takes seconds
    return "\n".join(message for text in texts for message in messages(text) if len(message) > 8)


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_message_exists(quoted: str, known: str) -> None:
    gap = f"[^\n]*{_GAP}[^\n]*"
    pattern = gap.join(re.escape(part) for part in quoted.split("..."))
    assert re.search(pattern, known)


def test_an_invented_message_is_noticed(known: str) -> None:
    assert len(QUOTED) >= 20
    assert not re.search("the moon is not full", known)
    assert next(messages('x = f"a {b} c" "d" + "e"')) == f"a {_GAP} cde"
