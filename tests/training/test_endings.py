"""What stops a run from outside, and what stays of it: SIGTERM, a full disk, a killed validation, damaged files."""

import os
import resource
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.data import DataLoader

from geometry import InputError
from geometry.errors import Terminated, sigterm_like_ctrl_c
from models.vggt.weights import weight_shapes
from tests.training.toy import TOY, Numbers, ToyTask
from training.checkpoint import AtomicCheckpointIO, previous, read_checkpoint
from training.endings import StopOnSigterm, has_finished
from training.folder_claim import FolderClaim
from training.last_checkpoint import LastCheckpoint
from training.options import RunOptions
from training.trainer import fit

NUMBERS = [1.0, 0.5, 0.25, 0.125]


class Validated(ToyTask):
    """Its validation loss chooses the best checkpoint; something may happen before a step, or in validation."""

    monitor = ("val/loss", "min")

    def __init__(
        self, options: RunOptions, at: str = "", act: Callable[[], object] = lambda: None, *, is_worse: bool = False
    ) -> None:
        super().__init__(options)
        self.at, self.act, self.is_worse = at, act, is_worse

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        if self.at == f"step {self.global_step}":
            self.act()
        self.log("train/number", batch)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        if self.at == "validation":
            self.act()
        self.log("val/loss", self._loss(batch) + 100 * self.is_worse)


class WithValidation(Numbers):
    """One number to validate with."""

    num_val_items = 1

    def val_dataloader(self) -> DataLoader:
        return DataLoader([torch.tensor(1.0)], batch_size=None)  # type: ignore[arg-type]


def run(
    base: Path,
    name: str,
    at: str = "",
    act: Callable[[], object] = lambda: None,
    *,
    is_continued: bool = False,
    is_worse: bool = False,
    **changes: Any,
) -> RunOptions:
    """A run of four steps, saved at each second and validated at the second one."""
    values: dict[str, Any] = {"basedir": str(base), "expname": name, "accelerator": "cpu", "max_steps": 4}
    values |= {"save_every": 2, "val_every": 2, "log_every": 1, "num_workers": 0} | changes
    options = RunOptions(**values)
    task = Validated(options, at, act, is_worse=is_worse)
    if options.ckpt:
        task.resume(read_checkpoint(Path(options.ckpt), TOY))
    fit(options, task, WithValidation(NUMBERS), is_continued=is_continued)
    return options


def last(options: RunOptions) -> Path:
    return options.run_dir / "checkpoints" / "last.ckpt"


def scalars(options: RunOptions, tag: str) -> set[tuple[int, float]]:
    events = EventAccumulator(str(options.run_dir / "tensorboard")).Reload()
    return {(event.step, event.value) for event in events.Scalars(tag)}


def assert_same_end(one: RunOptions, other: RunOptions) -> None:
    """Weights, moments, epoch, best checkpoint and metrics, bit for bit."""
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = (read_checkpoint(last(run).with_name(name), TOY).contents for run in (one, other))
        assert (ours["global_step"], ours["epoch"]) == (theirs["global_step"], theirs["epoch"])
        for key in ("state_dict", "optimizer_states", "lr_schedulers"):
            torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=0)
    for tag in ("train/number", "val/loss"):
        assert scalars(one, tag) == scalars(other, tag)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunOptions:
    return run(tmp_path_factory.mktemp("whole"), "a")


def raise_(error: Exception) -> None:
    raise error


def test_a_run_that_dies_in_validation_validates_again(whole: RunOptions, tmp_path: Path) -> None:
    """Its checkpoint of that step is not written before: going on from it there would be no best.ckpt."""
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, "b", "validation", lambda: raise_(RuntimeError("power cut")), save_every=1)
    options = run(tmp_path, "b", ckpt=str(tmp_path / "b" / "checkpoints" / "last.ckpt"), save_every=1)
    assert_same_end(options, whole)


def test_sigterm_saves_ends_well_and_goes_on_exactly(whole: RunOptions, tmp_path: Path) -> None:
    before, later = signal.getsignal(signal.SIGTERM), []

    def asked() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        later.append(signal.getsignal(signal.SIGTERM))

    options = run(tmp_path, "b", "step 2", asked)
    assert later == [signal.SIG_DFL]  # a second one ends the process
    assert signal.getsignal(signal.SIGTERM) is before
    assert read_checkpoint(last(options), TOY).contents["global_step"] == 3
    assert_same_end(run(tmp_path, "b", ckpt=str(last(options))), whole)


def test_sigterm_in_validation_asks_for_no_further_step(whole: RunOptions, tmp_path: Path) -> None:
    options = run(tmp_path, "b", "validation", lambda: os.kill(os.getpid(), signal.SIGTERM), save_every=3)
    assert read_checkpoint(last(options), TOY).contents["global_step"] == 2
    assert_same_end(run(tmp_path, "b", ckpt=str(last(options)), save_every=3), whole)


def test_what_one_process_alone_was_asked_is_not_written(tmp_path: Path) -> None:
    """Writing waits for all processes: one that would write alone waits for ever."""
    stop = StopOnSigterm(tmp_path)
    checkpoint = LastCheckpoint(tmp_path, 3, stop)
    trainer: Any = SimpleNamespace(global_step=2)
    stop.is_asked = True
    assert not checkpoint._is_due(trainer)
    stop.is_agreed = True
    assert checkpoint._is_due(trainer)


def test_sigterm_ends_what_is_more_than_a_training(tmp_path: Path) -> None:
    with sigterm_like_ctrl_c(), pytest.raises(Terminated):
        run(tmp_path, "b", "step 2", lambda: os.kill(os.getpid(), signal.SIGTERM))


def test_a_stopped_run_has_not_finished(tmp_path: Path) -> None:
    options = RunOptions(basedir=str(tmp_path), accelerator="cpu", max_steps=2, num_workers=0)
    for at, expected in (("step 0", False), ("", True)):
        task = Validated(options, at, lambda: os.kill(os.getpid(), signal.SIGTERM))
        if last(options).is_file():
            task.resume(read_checkpoint(last(options), TOY))
            options = RunOptions(**{**vars(options), "ckpt": str(last(options))})
        assert has_finished(fit(options, task, WithValidation(NUMBERS))) is expected


@pytest.mark.parametrize("at", ["step 3", "validation"])
def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint(whole: RunOptions, tmp_path: Path, at: str) -> None:
    """Files can grow to no more than a few bytes: the log in a step, a checkpoint after validation."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(InputError, match=r"expected space and the right to write, got .*File too large"):
            run(tmp_path, "b", at, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1])), save_every=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = tmp_path / "b" / "checkpoints" / "last.ckpt"
    assert not list(kept.parent.glob("*.partial"))
    assert_same_end(run(tmp_path, "b", ckpt=str(kept), save_every=1), whole)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_the_checkpoint_before_a_damaged_one_is_taken(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture, whole: RunOptions
) -> None:
    path = tmp_path / "last.ckpt"
    content = bytearray(last(whole).read_bytes())
    content[len(content) // 2] ^= damage == "flipped"
    path.write_bytes(content[: {"truncated": len(content) // 2, "empty": 0}.get(damage)])
    with pytest.raises(InputError, match="expected a whole"):
        read_checkpoint(path, TOY)
    previous(path).write_bytes(previous(last(whole)).read_bytes())
    assert read_checkpoint(path, TOY).path == previous(path)
    assert "the one before it is taken" in capsys.readouterr().err


def test_a_damaged_checkpoint_does_not_replace_the_one_before_it(tmp_path: Path, whole: RunOptions) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"damaged")
    before = last(whole).read_bytes()
    previous(path).write_bytes(before)
    writer = AtomicCheckpointIO(read_checkpoint(path, TOY))
    for name in ("best.ckpt", "last.ckpt"):
        writer.save_checkpoint({"a": 1}, path.with_name(name))
    assert previous(path).read_bytes() == before
    first = path.read_bytes()
    writer.save_checkpoint({"a": 2}, path)
    assert previous(path).read_bytes() == first


def test_two_runs_of_one_name_share_no_folder(tmp_path: Path) -> None:
    """The first has no checkpoint yet; locks are a process's own, so that another one holds it here."""
    (tmp_path / "a").mkdir()
    child = os.fork()
    if child == 0:
        claim = FolderClaim(tmp_path / "a")
        claim.take()
        (tmp_path / "taken").touch()
        signal.pause()
    try:
        while not (tmp_path / "taken").is_file():
            pass
        for is_continued in (False, True):  # the second part of a fine-tuning is as long as the first
            with pytest.raises(InputError, match=r"--expname: another process trains in .*a now"):
                run(tmp_path, "a", is_continued=is_continued)
        assert not (tmp_path / "a" / "config.txt").exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    run(tmp_path, "a")


def test_a_run_is_not_resumed_into_the_folder_of_another(whole: RunOptions, tmp_path: Path) -> None:
    shutil.copytree(whole.run_dir, tmp_path / "b")
    before = (tmp_path / "b" / "checkpoints" / "last.ckpt").read_bytes()
    with pytest.raises(InputError, match=r"b holds a run already; --ckpt .* is of another folder"):
        run(tmp_path, "b", ckpt=str(last(whole)))
    assert (tmp_path / "b" / "checkpoints" / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize("place", ["moved", "new"])
def test_the_best_checkpoint_of_a_folder_that_was_moved_stays(place: str, whole: RunOptions, tmp_path: Path) -> None:
    """Only a better score replaces it; a run that goes on in a new folder begins one there."""
    options = run(tmp_path, "b", max_steps=2)
    best = tmp_path / place / "checkpoints" / "best.ckpt"
    if place == "moved":
        (tmp_path / "b").rename(tmp_path / "moved")
    ckpt = tmp_path / "moved" / "checkpoints" / "last.ckpt" if place == "moved" else last(options)
    run(tmp_path, place, ckpt=str(ckpt), is_worse=True)
    assert read_checkpoint(best, TOY).contents["global_step"] == (2 if place == "moved" else 4)


def test_compressed_checkpoints_are_refused(whole: RunOptions, tmp_path: Path) -> None:
    """torch would unpack them, in memory that the file does not tell of."""
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(last(whole)) as file, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for part in file.namelist():
            packed.writestr(part, file.read(part) + bytes(2**16 if "/data/" in part else 0))
    with pytest.raises(InputError, match="compressed"):
        read_checkpoint(path, TOY)
    with pytest.raises(InputError, match="compressed"):
        weight_shapes(path.rename(tmp_path / "a.pt"))
