"""Rules about the code itself: who may import whom, and habits that would creep back."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("geometry", "data", "models", "training", "render")
MAY_IMPORT = {
    "geometry": {"geometry"},
    "data": {"geometry", "data"},
    "models": {"geometry", "models"},
    "training": {"geometry", "data", "models", "training"},
    "render": set(PACKAGES),
}
COMMANDS = {Path("training/vggt/inspect.py"): set(PACKAGES)}
"""Entry points that nothing imports: they may look at everything."""
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported_packages(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def parsed(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_one_way(path: Path) -> None:
    scripts = {path.stem for path in ROOT.glob("train_*.py")}
    ours = imported_packages(parsed(path)) & {*PACKAGES, *scripts, "tests", "benchmarks"}
    assert ours <= COMMANDS.get(path, MAY_IMPORT[path.parts[0]])


def test_nothing_imports_a_command() -> None:
    names = {".".join(path.with_suffix("").parts) for path in COMMANDS}
    for path in FILES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import):
                assert not names & {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not names & {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_habits(path: Path) -> None:
    """No star import, no hard-wired CUDA, no relative import; public functions typed and documented."""
    tree = parsed(path)
    assert ast.get_docstring(tree) is not None or not tree.body
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert all(alias.name != "*" for alias in node.names)
        if isinstance(node, ast.Attribute):
            assert node.attr != "cuda" or isinstance(node.value, ast.Name)
        if isinstance(node, ast.Constant):
            assert node.value != "cuda"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert node.returns is not None
            assert all(argument.annotation is not None for argument in arguments), node.name
            assert ast.get_docstring(node), node.name


def test_train_scripts_are_thin() -> None:
    for name in ("train_general.py", "train_finetune.py", "train_vggt.py"):
        assert len((ROOT / name).read_text().splitlines()) <= 40


def test_the_layout_is_as_prescribed() -> None:
    expected = ["setup.py", "README.md", "CHANGELOG.md", "LICENSE", "configs", "models", "data", "train_general.py"]
    expected += ["train_finetune.py", "train_vggt.py", "render", "notebooks", "tests", "geometry", "training"]
    expected += [".ci/run"]
    assert [name for name in expected if not (ROOT / name).exists()] == []
