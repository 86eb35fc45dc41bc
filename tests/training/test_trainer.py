"""What `fit` does beyond the steps themselves."""

import signal
from pathlib import Path

import pytest
from torch import Tensor

from geometry import Terminated
from tests.training.toy import TOY, Numbers, ToyTask
from training.checkpoint import read_checkpoint
from training.options import RunOptions
from training.trainer import fit


class InterruptedTask(ToyTask):
    """Somebody presses Ctrl-C, or the process is asked to end, before the last step."""

    interrupt: type[KeyboardInterrupt] = KeyboardInterrupt

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        if batch.item() == 0:
            raise self.interrupt
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Terminated])
def test_ctrl_c_reaches_the_command_and_leaves_the_last_checkpoint(
    kind: type[KeyboardInterrupt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is, not as the end of the process; a second Ctrl-C is heard as well."""
    options = RunOptions(basedir=str(tmp_path), accelerator="cpu", max_steps=3, save_every=1, num_workers=0)
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(InterruptedTask, "interrupt", kind)
    with pytest.raises(kind) as stop:
        fit(options, InterruptedTask(options), Numbers([1.0, 1.0, 0.0]))
    assert stop.type is kind
    assert signal.getsignal(signal.SIGINT) is handler
    assert read_checkpoint(options.run_dir / "checkpoints" / "last.ckpt", TOY).contents["global_step"] == 2
