"""Scenes to train, validate and test with: `python -m data.wai.split_lists /path/to/wai --val 0.2 --npy`.

Text lists `ROOT/lists/<split>.txt`, one scene a line; and the reference's `<split>/<dataset>_scene_list_<split>.npy`,
object arrays of names, below ROOT or ROOT/metadata. The former win.
"""

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.image_io import UnreadableFileError, write_bytes
from data.readers.splits import read_list, scan_order
from data.seeds import derived_seed
from data.untrusted_files import read_array
from data.wai.stages import Parser, find_scenes
from geometry import InputError, one_line_errors, require
from geometry.plain_files import plain_file

SPLITS = ("train", "val", "test")
_ALLOWED = {
    (module, name)
    for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric")
    for name in ("dtype", "ndarray", "_reconstruct", "_frombuffer", "scalar")
}


def scene_lists(root: Path) -> dict[str, tuple[str, ...]]:
    """Names of each split; empty where there is no list.

    Raises:
        InputError: for a list that cannot be read.
    """
    texts = {split: root / "lists" / f"{split}.txt" for split in SPLITS}
    if any(path.is_file() for path in texts.values()):
        return {split: read_list(path) if path.is_file() else () for split, path in texts.items()}
    return {split: _array_lists(root, split) for split in SPLITS}


def read_array_list(path: Path) -> tuple[str, ...]:
    """Names in an object array; nothing but arrays and texts is unpickled.

    Raises:
        InputError: for anything else.
    """
    try:
        content = io.BytesIO(plain_file(path).read_bytes())
        version = np.lib.format.read_magic(content)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = read_header(content)
        if dtype.hasobject:
            names = np.asarray(_NamesUnpickler(content).load()).ravel().tolist()
        else:
            names = read_array(path).ravel().tolist()
    except (OSError, ValueError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        raise UnreadableFileError(f"{path}: expected an array of scene names, got {error}") from None
    require(all(isinstance(name, str) for name in names), f"{path}: expected names of scenes, got {names!r:.60}")
    return tuple(names)


def write_lists(root: Path, dataset: str, lists: dict[str, Sequence[str]], *, as_arrays: bool = False) -> list[Path]:
    """Write text lists, or those of the reference below `root/metadata`; returns their paths."""
    paths = []
    for split, names in lists.items():
        if as_arrays:
            path = root / "metadata" / split / f"{dataset}_scene_list_{split}.npy"
            content = io.BytesIO()
            np.save(content, np.array(list(names), dtype=object), allow_pickle=True)
            write_bytes(path, content.getvalue())
        else:
            path = root / "lists" / f"{split}.txt"
            write_bytes(path, "".join(f"{name}\n" for name in names).encode())
        paths.append(path)
    return paths


def divided(names: Sequence[str], dataset: str, val: float, test: float, seed: int) -> dict[str, tuple[str, ...]]:
    """Scenes of each split; at least one to train on and, for shares above 0, one to validate with.

    BlendedMVS by the reference's rule: of names of hexadecimal digits those whose digits from the ninth on are a
    multiple of ten are for validation. Others: shuffled by the seed.
    """
    ordered = sorted(names, key=scan_order)
    if dataset == "blendedmvs" and all(_is_hexadecimal(name[8:]) for name in ordered):
        chosen = {name for name in ordered if int(name[8:], 16) % 10 == 0}
        return {
            "train": tuple(name for name in ordered if name not in chosen),
            "val": tuple(name for name in ordered if name in chosen),
        }
    order = np.random.default_rng(derived_seed(seed)).permutation(len(ordered))
    shuffled = [ordered[index] for index in order]
    counts = [max(1, round(share * len(ordered))) if share > 0 else 0 for share in (val, test)]
    require(sum(counts) < len(ordered), f"expected more than {sum(counts)} scenes to divide, got {len(ordered)}")
    ends = (counts[0], sum(counts))
    parts = {"train": shuffled[ends[1] :], "val": shuffled[: ends[0]], "test": shuffled[ends[0] : ends[1]]}
    return {split: tuple(sorted(part, key=scan_order)) for split, part in parts.items() if part}


class _NamesUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} among the names")
        return super().find_class(module, name)


def _array_lists(root: Path, split: str) -> tuple[str, ...]:
    pattern = f"{split}/*_scene_list_{split}.npy"
    paths = sorted(root.glob(pattern)) or sorted(root.glob(f"metadata/{pattern}"))
    return tuple(name for path in paths for name in read_array_list(path))


def _is_hexadecimal(text: str) -> bool:
    try:
        return int(text, 16) >= 0
    except ValueError:
        return False


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = Parser(prog="python -m data.wai.split_lists", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of WAI scenes")
    parser.add_argument("--val", type=float, default=0.1, help="share of the scenes to validate with")
    parser.add_argument("--test", type=float, default=0.0, help="share of the scenes to test with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dataset", default="", help="blendedmvs: the reference's rule; and the name of .npy lists")
    parser.add_argument("--npy", action="store_true", help="the reference's .npy lists below ROOT/metadata as well")
    options = parser.parse_args(arguments)
    require(
        options.val >= 0 and options.test >= 0 and options.val + options.test < 1,
        f"--val, --test: expected shares that add to less than 1, got {options.val:g} and {options.test:g}",
    )
    require(
        options.dataset.replace("_", "").replace("-", "").isalnum() or not options.dataset,
        f"--dataset: expected a name of letters, digits, - and _, got {options.dataset!r}",
    )
    names = list(find_scenes(options.root))
    lists = divided(names, options.dataset, options.val, options.test, options.seed)
    exist = [path for path in (options.root / "lists" / f"{split}.txt" for split in SPLITS) if path.is_file()]
    if exist:
        raise InputError(f"{exist[0]}: expected no lists yet, got one; it is not replaced")
    write_lists(options.root, options.dataset or "wai", lists)
    if options.npy:
        write_lists(options.root, options.dataset or "wai", lists, as_arrays=True)
    for split, part in lists.items():
        print(f"{split}: {len(part)} scenes")  # noqa: T201


if __name__ == "__main__":
    main()
