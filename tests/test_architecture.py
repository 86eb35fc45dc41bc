"""Rules about the code itself: who may import whom, and habits that would creep back."""

import ast
from functools import cache
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
TASKS = sorted({path.name for room in ("models", "training") for path in (ROOT / room).iterdir() if path.is_dir()})
TASKS = [name for name in TASKS if name != "__pycache__"]
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def imported_modules(path: Path) -> set[str]:
    """Dotted names of everything a file imports, wherever in it; `from a import b` counts as a.b."""
    names = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def task_of(module: str) -> str | None:
    """The task whose room a module is in: `nerf` for models.nerf.losses and training.nerf.task."""
    parts = module.split(".")
    return parts[1] if parts[0] in ("models", "training") and len(parts) > 1 and parts[1] in TASKS else None


def test_the_rooms_of_the_tasks_are_found() -> None:
    assert {"nerf", "vggt"} <= set(TASKS)
    assert task_of("training.nerf.task.NerfTask") == "nerf"
    assert task_of("training.run_task.RunTask") is None


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_one_way(path: Path) -> None:
    scripts = {script.stem for script in ROOT.glob("train_*.py")}
    ours = {name.split(".")[0] for name in imported_modules(path)} & {*PACKAGES, *scripts, "tests", "benchmarks"}
    assert ours <= MAY_IMPORT[path.parts[0]]


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] in ("models", "training")], ids=str)
def test_no_task_imports_another(path: Path) -> None:
    """The frozen VGGT (models/vggt) is there for all of them; its training is a task like others."""
    own = task_of(".".join(path.with_suffix("").parts))
    others = {name for name in imported_modules(path) if task_of(name) not in (None, own)}
    assert [name for name in sorted(others) if not name.startswith("models.vggt")] == []


@pytest.mark.parametrize("path", sorted((ROOT / "training").glob("*.py")), ids=lambda path: path.name)
def test_the_harness_imports_no_task(path: Path) -> None:
    tasks = {name for name in imported_modules(path.relative_to(ROOT)) if task_of(name) is not None}
    assert [name for name in sorted(tasks) if not name.startswith("models.vggt")] == []


@pytest.mark.parametrize("path", sorted((ROOT / "data" / "readers").glob("*.py")), ids=lambda path: path.name)
def test_readers_import_no_datamodule(path: Path) -> None:
    forbidden = ("data.novel_view", "data.multi_view", "pytorch_lightning", "torch.utils.data")
    assert [name for name in sorted(imported_modules(path.relative_to(ROOT))) if name.startswith(forbidden)] == []


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] in ("training", "render")], ids=str)
def test_nobody_outside_asks_which_sampler_it_is(path: Path) -> None:
    """No name of one, but for the default of the option; no class of one (the field of a scene is a task's own)."""
    words = [node.value for node in ast.walk(parsed(path)) if isinstance(node, ast.Constant)]
    allowed = 1 if path == Path("training/nerf/options.py") else 0
    assert words.count("guided") == 0
    assert words.count("hierarchical") == allowed
    forbidden = ("models.nerf.hierarchical", "models.nerf.guided.network")
    names = sorted(imported_modules(path))
    assert [
        name for name in names if name.startswith(forbidden) or name.endswith(("GuidedNeRF", "HierarchicalNeRF"))
    ] == []


def all_imported_by(path: Path) -> set[Path]:
    """Files of the repository that a file imports, directly or not, with the packages that they are in."""
    found, todo = set(), {path}
    while todo:
        found |= todo
        names = {name for one in todo for name in imported_modules(one)}
        whole = {
            Path(*parts[:end]) for name in names for parts in [name.split(".")] for end in range(1, len(parts) + 1)
        }
        files = {file for one in whole for file in (one.with_suffix(".py"), one / "__init__.py")}
        todo = {file for file in files if (ROOT / file).is_file()} - found
    return found


def test_training_vggt_imports_no_radiance_field() -> None:
    imported = {path.as_posix() for path in all_imported_by(Path("train_vggt.py"))}
    assert {"training/vggt/runs.py", "models/vggt/attention.py", "models/__init__.py"} <= imported
    assert [name for name in sorted(imported) if name.startswith(("models/nerf", "training/nerf"))] == []
    assert "models/nerf/vggt_nerf.py" in {path.as_posix() for path in all_imported_by(Path("train_general.py"))}


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


@pytest.mark.parametrize("folder", [*PACKAGES, "tests"])
def test_pycolmap_is_imported_in_one_place(folder: str) -> None:
    """It must come behind zlib (data/colmap_library.py)."""
    paths = sorted(path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py"))
    importing = [path for path in paths if "pycolmap" in (ROOT / path).read_text()]
    importing = [path for path in importing if "pycolmap" in imported_modules(path)]
    assert importing == ([Path("data/colmap_library.py")] if folder == "data" else [])


def test_train_scripts_are_thin() -> None:
    scripts = sorted(ROOT.glob("train_*.py"))
    assert len(scripts) >= 3
    assert all(len(script.read_text().splitlines()) <= 40 for script in scripts)


def test_the_layout_is_as_prescribed() -> None:
    expected = ["setup.py", "README.md", "CHANGELOG.md", "LICENSE", "configs", "models", "data", "train_general.py"]
    expected += ["train_finetune.py", "train_vggt.py", "render", "notebooks", "tests", "geometry", "training"]
    expected += [".ci/run"]
    assert [name for name in expected if not (ROOT / name).exists()] == []
