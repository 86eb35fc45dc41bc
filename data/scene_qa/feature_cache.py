"""Tokens of a frozen backbone on disk: computed once for every group of views, read in every epoch and by every run.

The key of a file is a hash of everything its content depends on: the backbone's weights, the layers kept, and for
each view, in order, its pixels. Files are whole or absent, so several processes may write at the same time.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from tqdm import tqdm

from data.image_io import UnreadableFileError, write_bytes

Tokens = Float[Tensor, "view layer channel rows cols"]
Extractor = Callable[[Float[Tensor, "batch view 3 height width"]], Float[Tensor, "batch view layer channel rows cols"]]
"""Runs the frozen backbone; see `models.vggt.FrozenVGGT`."""

_FORMAT = 1
_NAME = "tokens"


@dataclass(frozen=True)
class Wanted:
    """Views whose tokens are needed."""

    key: str
    num_views: int
    load: Callable[[], Float[Tensor, "view 3 height width"]]
    """Images, RGB in [0, 1]."""


class TokenCache:
    """A folder of token files of one backbone."""

    def __init__(self, folder: Path, backbone: str, layers: Sequence[int], dtype: torch.dtype = torch.float16) -> None:
        """`backbone`: hash of its weights, with everything else that its tokens depend on (the size it works at).

        Tokens are kept in `dtype`; float16 halves the space and keeps 3 digits.
        """
        self.folder, self.dtype = folder, dtype
        self._identity = [_FORMAT, backbone, list(layers), str(dtype)]

    def key(self, fingerprints: Sequence[str]) -> str:
        """Of the tokens of these views together, in this order."""
        text = json.dumps([*self._identity, list(fingerprints)])
        return hashlib.sha256(text.encode()).hexdigest()

    def load(self, key: str) -> Tokens | None:
        """float32; None where there is no such file, or a damaged one."""
        try:
            return load(self._path(key).read_bytes())[_NAME].float()
        except (OSError, SafetensorError, KeyError):
            return None

    def store(self, key: str, tokens: Tokens) -> None:
        """Write a file.

        Raises:
            InputError: for a folder that cannot be written to.
        """
        write_bytes(self._path(key), save({_NAME: tokens.detach().to("cpu", self.dtype).contiguous()}))

    def has(self, key: str) -> bool:
        """Whether there is a file; not whether it can be read."""
        return self._path(key).is_file()

    def fill(self, wanted: Iterable[Wanted], extract: Extractor, *, images_per_step: int = 48) -> int:
        """Compute what is missing, groups of equally many views together; how many groups that were.

        Groups with an image that cannot be read are passed over: whoever loads them finds out.
        """
        missing = {one.key: one for one in wanted if not self.has(one.key)}
        by_views: dict[int, list[Wanted]] = {}
        for one in missing.values():
            by_views.setdefault(one.num_views, []).append(one)
        with tqdm(total=len(missing), desc="tokens of the frozen backbone", disable=not missing) as bar:
            for num_views, group in by_views.items():
                step = max(1, images_per_step // num_views)
                for start in range(0, len(group), step):
                    part = group[start : start + step]
                    found = {}
                    for one in part:
                        with contextlib.suppress(UnreadableFileError):
                            found[one.key] = one.load()
                    if found:
                        for key, tokens in zip(found, extract(torch.stack(list(found.values()))), strict=True):
                            self.store(key, tokens)
                    bar.update(len(part))
        return len(missing)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"
