"""The newest checkpoint of a run in progress."""

from pathlib import Path

from geometry import InputError
from models.nerf.vggt_nerf import VGGTNeRF
from training.checkpoint import Checkpoint
from training.nerf.checkpoint import NerfRecord, read_nerf_checkpoint

NAME = Path("checkpoints") / "last.ckpt"


class WatchedRun:
    """A run folder of train_general.py or train_finetune.py, which need not have a checkpoint yet."""

    def __init__(self, run: Path) -> None:
        self.file = run / NAME
        self.status = f"waiting for {self.file}"
        """One line for people."""
        self._seen: tuple[int, int] | None = None

    def newest(self) -> Checkpoint[NerfRecord, VGGTNeRF] | None:
        """The checkpoint if the file is another one than at the last call; None else.

        One that is missing, half-written or not yet a radiance field is waited for; `status` says so.
        """
        try:
            stat = self.file.stat()
        except OSError:
            return None
        stamp = (stat.st_mtime_ns, stat.st_size)
        if stamp == self._seen:
            return None
        self._seen = stamp  # of before it is read: what is written meanwhile gives it another
        try:
            checkpoint = read_nerf_checkpoint(self.file)
        except InputError as error:
            self.status = str(error)
            return None
        self.status = f"step {checkpoint.contents.get('global_step', '?')} of {self.file.parent.parent}"
        return checkpoint
