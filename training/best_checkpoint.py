"""Which best.ckpt a resumed run has to beat."""

from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Lightning's, of a run whose folder may have been moved or renamed since.

    Lightning's own forgets the best score where the folder is another one than the checkpoint says, so that the next
    validation, however bad, replaces best.ckpt; and it deletes files by names that the checkpoint says.
    """

    @property
    def state_key(self) -> str:
        """As checkpoints have it that were written by Lightning's own."""
        return super().state_key.replace(type(self).__name__, ModelCheckpoint.__name__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The score to beat, if the file that has it lies in this folder, whatever its path was."""
        best = Path(str(self.dirpath)) / Path(str(state_dict["best_model_path"])).name
        if not best.is_file():
            return
        self.best_model_path = self.kth_best_model_path = str(best)
        self.best_model_score = self.kth_value = state_dict["best_model_score"]
        self.best_k_models = {str(best): state_dict["best_model_score"]}
