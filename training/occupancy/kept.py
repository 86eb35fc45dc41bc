"""Which checkpoints of a run stay beside the last and the best."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from training.occupancy.options import OccupancyOptions


def kept_checkpoints(options: OccupancyOptions, steps_per_epoch: int) -> list[pl.Callback]:
    """One every `--keep_every` epochs, of which the newest `--keep` stay; nothing else is ever deleted."""
    if not options.keep_every:
        return []
    return [
        ModelCheckpoint(
            dirpath=options.run_dir / "checkpoints",
            filename="step_{step:07d}",
            auto_insert_metric_name=False,
            monitor="step",
            mode="max",
            save_top_k=options.keep,
            every_n_train_steps=options.keep_every * steps_per_epoch,
            save_weights_only=False,
            enable_version_counter=False,
        )
    ]
