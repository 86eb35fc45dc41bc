"""Options of evaluation, benchmark and video: one frozen dataclass each, one line of help per field."""

from dataclasses import dataclass
from pathlib import Path

from data.novel_view.protocols import PROTOCOLS
from geometry import require
from models.nerf.renderer import NEAR_FAR as RANGES
from models.nerf.vggt_nerf import QUALITIES
from render.trajectories import TRAJECTORIES
from training.nerf.data_options import DataOptions
from training.options import option
from training.precision import AUTO, PRECISIONS, TRAINED

NEAR_FAR = (TRAINED, *RANGES)


@dataclass(frozen=True, kw_only=True)
class RenderOptions(DataOptions):
    """What all of them understand."""

    ckpt: str = option("", "checkpoint of train_general.py or train_finetune.py")
    vggt_ckpt: str = option(
        "", "where the VGGT weights lie now, if not where the training found them; guided: or another VGGT"
    )
    n_views: int = option(3, "number of source views")
    imgScale_test: float = option(1.0, "resize factor of the images")
    N_samples: int | None = option(None, "hierarchical: samples per ray of the coarse pass; not given: as trained")
    N_importance: int | None = option(None, "hierarchical: further samples of the fine pass; not given: as trained")
    N_guided: int | None = option(None, "guided: samples per ray; not given: as trained")
    feature_pixels: int | None = option(None, "guided: most pixels of a feature map; not given: as trained")
    vggt_image_size: int | None = option(
        None, "longest image side VGGT sees, 0 = the image's own; not given: as trained"
    )
    quality: str = option(
        "fast",
        "fast, or full: the mean of four renderings with the cameras rolled by a quarter turn each, about four times "
        "as slow",
    )
    near_far: str = option(
        "trained",
        "where rays start and end: data (bounds of the data set), auto (where VGGT's depth says), open (well before "
        "and behind the data's bounds), or trained",
    )
    precision: str = option(
        TRAINED, "numbers to compute with: trained (as the checkpoint's run, which validated so), 32-true, ..., or auto"
    )
    white_bkgd: bool | None = option(
        None, "what a ray does not hit is white (or black), and transparent images lie on it; not given: the data set's"
    )
    chunk: int = option(4096, "rays rendered at a time; halved by itself where memory does not suffice")
    device: str = option("auto", "auto (a GPU where there is one), cpu, or any name torch knows")

    def __post_init__(self) -> None:
        """Refuse what cannot work, by name, before anything is read or written.

        Raises:
            InputError: naming the option.
        """
        super().__post_init__()
        self._require_checkpoint()
        require(self.n_views >= 2, f"--n_views: expected 2 or more, got {self.n_views}")
        require(self.imgScale_test > 0, f"--imgScale_test: expected a positive number, got {self.imgScale_test}")
        require(self.near_far in NEAR_FAR, f"--near_far: expected one of {', '.join(NEAR_FAR)}, got {self.near_far!r}")
        require(self.quality in QUALITIES, f"--quality: expected {' or '.join(QUALITIES)}, got {self.quality!r}")
        known = (TRAINED, *PRECISIONS, AUTO)
        require(self.precision in known, f"--precision: expected one of {', '.join(known)}, got {self.precision!r}")
        require(self.chunk >= 1, f"--chunk: expected 1 or more, got {self.chunk}")

    def _require_checkpoint(self) -> None:
        require(Path(self.ckpt).is_file(), f"--ckpt: expected a checkpoint file, got {self.ckpt!r}")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(RenderOptions):
    """Options of `python -m render.evaluate`."""

    scans: tuple[str, ...] = option(
        (), "scans to evaluate; none given: the data set's test scans, or the scan fine-tuned on", nargs="+"
    )
    protocol: str = option("full", f"which views and pixels count: {', '.join(PROTOCOLS)}")
    out: str = option("", "folder for metrics.json and the pictures")

    def __post_init__(self) -> None:
        """See `RenderOptions`."""
        super().__post_init__()
        require(bool(self.out), "--out: expected a folder for the results, got none")
        require(not Path(self.out).is_file(), f"--out: expected a folder, got the file {self.out!r}")
        require(
            self.protocol in PROTOCOLS,
            f"--protocol: expected one of {', '.join(PROTOCOLS)}, got {self.protocol!r}",
        )


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions(EvaluateOptions):
    """Options of `python -m render.benchmark`: those of `render.evaluate`, which it passes on, and its own."""

    finetune: str = option(
        "", "txt config of train_finetune.py: every scan is also fine-tuned from --ckpt with it, and evaluated"
    )
    devices: int = option(1, "scans worked on at a time: each on a GPU of its own, or as so many processes on the CPU")

    def __post_init__(self) -> None:
        """See `RenderOptions`."""
        super().__post_init__()
        require(
            not self.finetune or Path(self.finetune).is_file(), f"--finetune: expected a file, got {self.finetune!r}"
        )
        require(self.devices >= 1, f"--devices: expected 1 or more, got {self.devices}")
        require(
            self.devices == 1 or self.device in ("auto", "cpu"),
            f"--devices {self.devices}: expected --device auto or cpu beside it, got {self.device}",
        )


@dataclass(frozen=True, kw_only=True)
class PathOptions(RenderOptions):
    """Options of commands that render a scene along a camera path."""

    scan: str = option("", "the scan to film; may be left out when there is only one")
    source_views: tuple[int, ...] = option(
        (), "view numbers that may be sources; none given: the scan's training views", nargs="+"
    )
    trajectory: str | None = option(
        None, f"path of the camera: {', '.join(TRAJECTORIES)}; not given: interpolate, or --path"
    )
    path: str = option("", "camera path file (JSON), for example of render.viewer, instead of --trajectory")
    frames: int | None = option(None, "number of frames; not given: 60, or as --path says")

    def __post_init__(self) -> None:
        """See `RenderOptions`."""
        super().__post_init__()
        require(
            self.trajectory in (None, *TRAJECTORIES),
            f"--trajectory: expected one of {', '.join(TRAJECTORIES)}, got {self.trajectory!r}",
        )
        require(
            not self.path or self.trajectory is None,
            f"--path: expected no --trajectory beside it, got {self.trajectory}",
        )
        require(not self.path or Path(self.path).is_file(), f"--path: expected a file, got {self.path!r}")
        require(self.frames is None or self.frames >= 1, f"--frames: expected 1 or more, got {self.frames}")


@dataclass(frozen=True, kw_only=True)
class VideoOptions(PathOptions):
    """Options of `python -m render.video`."""

    fps: int | None = option(None, "frames per second; not given: 24, or as --path says")
    out: str = option("", "video file, .mp4 or .gif")
    gif: bool = option(False, "write a .gif beside the .mp4")

    def __post_init__(self) -> None:
        """See `PathOptions`."""
        super().__post_init__()
        require(self.fps is None or self.fps >= 1, f"--fps: expected 1 or more, got {self.fps}")
        suffix = Path(self.out).suffix
        require(suffix in (".mp4", ".gif"), f"--out: expected a file name ending in .mp4 or .gif, got {self.out!r}")
        require(not Path(self.out).is_dir(), f"--out: expected a file name, got the folder {self.out!r}")
