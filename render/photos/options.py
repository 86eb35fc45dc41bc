"""Options of `python -m render.photos`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from geometry import require
from render.reconstruct.sources import MAX_IMAGES, MAX_SIDE
from render.reconstruct.types import Poses
from render.trajectories import TRAJECTORIES
from training.options import option

AUTO = "auto"
POSES = (AUTO, *get_args(Poses))
MIN_CAMERAS = 4
"""Photographs with a camera: one is held out, three are left for a target and its two sources."""
_MIN_SIDE = 64
"""Pixels; with less there is nothing to match."""
_OF_VGGT = ("vggt_ckpt", "no_refine", "camera_matches")


@dataclass(frozen=True, kw_only=True)
class PhotosOptions:
    """What is made of which photographs, how long it may take, and where it goes."""

    source: str = option(
        "",
        "a folder of photographs, or a video file; with --poses model a folder with images/ and sparse/0, or with a "
        "transforms.json",
        is_positional=True,
    )
    out: str = option("", "folder of everything that is made")
    resume: bool = option(False, "go on with what --out holds: stages that finished with the same options are kept")
    poses: str = option(
        AUTO,
        "where cameras are from: colmap (structure from motion), vggt (VGGT, then bundle adjustment), model (the "
        "cameras that came with the photographs), or auto: colmap, then vggt when fewer than 60 % get a camera",
    )
    vggt_ckpt: str = option(
        "", "VGGT weights that cameras are predicted with; not given: the shipped ones, which cannot do photographs"
    )
    no_refine: bool = option(False, "leave VGGT's cameras as they are, without bundle adjustment over matches")
    camera_matches: bool = option(
        False,
        "VGGT's cameras are those of the matches of its stem, which the shipped weights have, instead of its camera "
        "head's",
    )
    max_side: int = option(MAX_SIDE, "longest side in pixels to which photographs are reduced")
    max_images: int | None = option(None, f"most photographs, or frames of a video, to use; not given: {MAX_IMAGES}")
    minutes: float = option(5.0, "minutes that fine-tuning may take; 0: none")
    steps: int | None = option(
        None, "fine-tune for exactly so many optimizer steps instead of --minutes: the result can be repeated"
    )
    ckpt: str = option("ckpts/general_guided.ckpt", "general model to start from")
    finetune: str = option("configs/nerf/photos_finetune.txt", "txt config of train_finetune.py")
    n_views: int = option(6, "source views of every rendered view")
    trajectory: str = option(
        AUTO,
        f"path of the video's camera: {', '.join(name for name in TRAJECTORIES if name != AUTO)}, or auto: an orbit "
        "around what was photographed from all sides, interpolation otherwise",
    )
    frames: int = option(48, "frames of the video")
    fps: int = option(16, "frames per second")
    device: str = option("auto", "auto (a GPU where there is one), cpu, or any name torch knows")
    seed: int = option(0, "all randomness derives from it")

    def __post_init__(self) -> None:
        """Refuse what cannot work or has no effect, by name, before anything is read or written.

        Raises:
            InputError: naming the option.
        """
        require(bool(self.source), "SOURCE: expected a folder of photographs or a video file, got none")
        require(
            Path(self.source).exists(), f"SOURCE: expected a folder or a video file, got {self.source!r}: no such file"
        )
        require(bool(self.out), "--out: expected a folder for the results, got none")
        require(not Path(self.out).is_file(), f"--out: expected a folder, got the file {self.out!r}")
        paths = (AUTO, *(name for name in TRAJECTORIES if name != AUTO))
        require(self.poses in POSES, f"--poses: expected one of {', '.join(POSES)}, got {self.poses!r}")
        require(self.trajectory in paths, f"--trajectory: expected one of {', '.join(paths)}, got {self.trajectory!r}")
        self._require_numbers()
        require(Path(self.ckpt).is_file(), f"--ckpt: expected a checkpoint file, got {self.ckpt!r}")
        require(Path(self.finetune).is_file(), f"--finetune: expected a txt config, got {self.finetune!r}")
        self._require_effects()

    def _require_numbers(self) -> None:
        require(0 <= self.minutes < math.inf, f"--minutes: expected 0 or more, got {self.minutes}")
        least = {"max_side": _MIN_SIDE, "max_images": MIN_CAMERAS, "steps": 2, "n_views": 2, "frames": 1, "fps": 1}
        for name, minimum in least.items():
            value = getattr(self, name)
            require(value is None or value >= minimum, f"--{name}: expected {minimum} or more, got {value}")
        require(0 <= self.seed < 2**31, f"--seed: expected 0 to 2^31 - 1, got {self.seed}")

    def _require_effects(self) -> None:
        """Options that others leave without effect."""
        for name in _OF_VGGT:
            given = bool(getattr(self, name))
            require(not given or self.poses in (AUTO, "vggt"), f"--{name}: has no effect with --poses {self.poses}")
        require(
            self.max_images is None or self.poses != "model",
            "--max_images: has no effect with --poses model, which takes every photograph that has a camera",
        )
        require(
            self.steps is None or self.minutes > 0, f"--steps {self.steps}: has no effect with --minutes 0, no training"
        )

    @property
    def is_finetuned(self) -> bool:
        """Whether there is any fine-tuning."""
        return self.minutes > 0
