"""Options of `python -m render.viewer`."""

from dataclasses import dataclass
from pathlib import Path

from geometry import require
from render.options import RenderOptions
from training.options import option

LOCALHOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class ViewerOptions(RenderOptions):
    """Those of all render commands, and the page's."""

    scan: str = option("", "the scan to look at; may be left out when there is only one")
    source_views: tuple[int, ...] = option(
        (), "view numbers that may be sources; none given: the scan's training views", nargs="+"
    )
    watch: str = option("", "folder of a run in progress, whose newest checkpoint is shown, instead of --ckpt")
    path: str = option("camera_path.json", "file into which the page's path editor saves; every visit begins with it")
    max_side: int = option(640, "longest side in pixels of the full picture, screenshots included")
    host: str = option(LOCALHOST, "address to listen on; 0.0.0.0: everybody who can reach this machine")
    port: int = option(8080, "port to listen on; 0: any free one")
    qa_ckpt: str = option("", "checkpoint or weight file of train_vqa.py: the page gets a box for questions")
    qa_views: int = option(8, "source views that questions are about, evenly spread")
    qa_language_model: str = option("", "where the language model of --qa_ckpt lies, if not where it was in training")
    qa_vggt_ckpt: str = option("", "where the VGGT of --qa_ckpt lies, if not where it was in training")
    seconds: float = option(0.0, "end after so long, also without a checkpoint of --watch; 0: at Ctrl-C")

    def __post_init__(self) -> None:
        """See `RenderOptions`."""
        super().__post_init__()
        require(self.max_side >= 32, f"--max_side: expected 32 or more, got {self.max_side}")
        require(0 <= self.port < 65536, f"--port: expected 0 to 65535, got {self.port}")
        require(self.seconds >= 0, f"--seconds: expected 0 or more, got {self.seconds}")
        require(Path(self.path).suffix == ".json", f"--path: expected a name ending in .json, got {self.path!r}")

        require(self.qa_views >= 1, f"--qa_views: expected 1 or more, got {self.qa_views}")
        for name in ("qa_language_model", "qa_vggt_ckpt"):
            require(not getattr(self, name) or bool(self.qa_ckpt), f"--{name}: expected --qa_ckpt beside it, got none")

    def _require_checkpoint(self) -> None:
        require(not (self.ckpt and self.watch), "--watch: expected no --ckpt beside it")
        if self.watch:
            require(Path(self.watch).is_dir(), f"--watch: expected a run folder, got {self.watch!r}")
        else:
            super()._require_checkpoint()
