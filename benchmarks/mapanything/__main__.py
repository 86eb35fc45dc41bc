"""Whether data, sampling, optional inputs, network, losses and benchmark of the MapAnything track work as one.

python -m benchmarks.mapanything --out runs/mapanything_proof

Makes furnished rooms of three families with the project's own commands (data.procedural, data.wai.convert,
data.wai.covisibility, data.wai.split_lists), trains configs/mapanything/rooms_proof.txt from random weights once per
seed, and scores every combination of inputs on rooms that were not trained on, beside baselines without a network. See
docs/mapanything.md, "Proof". Below `--out` everything is kept: what is finished is not done again. Writes metrics.json
and rooms.png and prints tables.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.mapanything import checks, criteria, scores
from benchmarks.mapanything.baselines import TrainingMeans
from benchmarks.mapanything.criteria import COORDINATE, FAMILIES, FREE, WIDE
from benchmarks.mapanything.picture import save_picture
from benchmarks.mapanything.rooms import SIZE, RoomCounts, make_rooms, require_no_leak
from benchmarks.mapanything.scores import HeldOut
from benchmarks.mapanything.sets import sets_of_rooms
from benchmarks.mapanything.training import resumed_losses, train
from geometry import one_line_errors, require
from training.cli import parse_options
from training.files import staged_file, write_json
from training.mapanything.checkpoint import load_weights
from training.mapanything.evaluation import known
from training.mapanything.truth import truth_of_batch
from training.options import option

_COUNTS = {FREE: RoomCounts(200, 8, 16), WIDE: RoomCounts(100, 8, 16), COORDINATE: RoomCounts(200, 8, 16)}
_QUICK = RoomCounts(1, 1, 2, views=4)
_QUICK_RUN = ("--num_val", "1", "--eval_inputs", "images", "--max_img_per_gpu", "4", "--log_every", "1")
_SETS_PER_ROOM = 3


@dataclass(frozen=True, kw_only=True)
class ProofOptions:
    """How much is trained."""

    out: str = option("runs/mapanything_proof", "folder of rooms, runs and results; what is finished in it is kept")
    seeds: tuple[int, ...] = option((0, 1), "seeds of the runs, side by side, one thread each", nargs="+")
    steps: int = option(5000, "optimizer steps of a run, 16 images each")
    workers: int = option(2, "processes that make rooms")
    quick: bool = option(False, "a few tiny rooms and no resumed run, to see that the command works; nothing is proved")

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InputError: naming the option.
        """
        require(len(set(self.seeds)) == len(self.seeds), f"--seeds: expected each once, got {list(self.seeds)}")
        for name in ("steps", "workers"):
            require(getattr(self, name) >= 1, f"--{name}: expected at least 1, got {getattr(self, name)}")
        require(not Path(self.out).is_file(), f"--out: expected a folder, got the file {self.out!r}")


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Make, train, score, print."""
    options = parse_options(ProofOptions, __doc__, argv)
    torch.set_num_threads(1)
    start = time.monotonic()
    out = Path(options.out).absolute()
    counts = {family: _QUICK if options.quick else _COUNTS[family] for family in FAMILIES}
    roots = [make_rooms(out / "rooms", family, counts[family], seed=0, workers=options.workers) for family in FAMILIES]
    rooms = require_no_leak(roots)
    sys.stdout.write(f"{rooms} rooms, no two with the same first photograph\n")
    more = _QUICK_RUN if options.quick else ()
    weights = train(roots, out, options.seeds, options.steps, more)
    resume = None if options.quick else resumed_losses(roots, out / "resume")
    results = evaluate(options, out, dict(zip(FAMILIES, roots, strict=True)), weights, resume)
    results |= {"rooms": rooms, "minutes": (time.monotonic() - start) / 60}
    with staged_file(out / "metrics.json") as partial:
        write_json(partial, results)
    sys.stdout.write(f"\n{results['minutes']:.1f} minutes; written to {out / 'metrics.json'} and rooms.png\n")


def evaluate(
    options: ProofOptions, out: Path, roots: dict[str, Path], weights: Sequence[Path], resume: dict[str, Any] | None
) -> dict[str, Any]:
    """Tables and criteria of all networks, printed and as plain values."""
    per_room = 1 if options.quick else _SETS_PER_ROOM
    kinds = [(family, views) for family in FAMILIES for views in (2, 4)]
    if options.quick:
        kinds = [(FREE, 2), (FREE, 4), (WIDE, 2), (COORDINATE, 2)]
    held_out = {kind: held_out_of(roots[kind[0]], kind[1], per_room) for kind in kinds}
    networks = [load_weights(str(path), "mapanything")[0].eval() for path in weights]
    rows: dict[str, scores.Rows] = {}
    by_seed: list[dict[str, scores.Rows]] = [{} for _ in networks]
    for (family, views), sets in held_out.items():
        if options.quick and views > 2:
            continue
        baselines = scores.baseline_rows(sets)
        each = [scores.network_rows(network, sets) for network in networks]
        for found, one in zip(by_seed, each, strict=True):
            found[f"{family}, {views} views"] = baselines | one
        rows[f"{family}, {views} views"] = baselines | scores.mean_rows(each)
        sys.stdout.write(f"\n{family} rooms, {views} views, {len(sets.truth.is_metric)} sets\n\n")
        sys.stdout.write(scores.table(rows[f"{family}, {views} views"]) + "\n")
    found, verdicts = [], []
    for number, (network, path) in enumerate(zip(networks, weights, strict=True)):
        pairs = {family: by_seed[number][f"{family}, 2 views"] for family in FAMILIES}
        found.append(checked(network, held_out) | {"resume": resume})
        found[-1]["metrics"] = _plain(found[-1]["metrics"])
        found[-1]["benchmark"] = checks.benchmark_levels(path, roots[FREE], out / f"benchmark{number}", max(SIZE))
        verdicts.append(criteria.criteria_of(pairs, found[-1]))
    sys.stdout.write(f"\n{criteria.table(verdicts)}\n")
    shown = {family: held_out[family, 2 if options.quick else 4] for family in (FREE, COORDINATE)}
    save_picture(networks[0], shown, out / "rooms.png")
    return {
        "rows": {name: _plain(one) for name, one in rows.items()},
        "rows_by_seed": [{name: _plain(one) for name, one in found.items()} for found in by_seed],
        "checks": found,
        "criteria": [[vars(one) for one in verdict] for verdict in verdicts],
        "steps": options.steps,
        "seeds": list(options.seeds),
        "weights": [str(path) for path in weights],
    }


def _plain(rows: scores.Rows) -> dict[str, dict[str, float | None]]:
    return {name: known(row) for name, row in rows.items()}


def held_out_of(root: Path, views: int, per_room: int) -> HeldOut:
    """Sets of the test rooms, and the means of the training rooms."""
    batch = sets_of_rooms(root, "test", views=views, per_room=per_room)
    means = TrainingMeans.of(truth_of_batch(sets_of_rooms(root, "train", views=views, per_room=1)))
    return HeldOut(batch, truth_of_batch(batch), per_room, means)


def checked(network: nn.Module, held_out: dict[tuple[str, int], HeldOut]) -> dict[str, Any]:
    """What benchmarks/mapanything/checks.py finds on free rooms."""
    pairs, fours = held_out[FREE, 2], held_out[FREE, 4]
    presets = ("everything", "depth", "poses", "everything_up_to_scale")
    return {
        "scale": {preset: checks.followed_scale(network, pairs, preset) for preset in presets},
        "order": checks.order_errors(network, fours, "everything"),
        "bare": checks.bare_view_errors(network, fours),
        "metrics": checks.metrics_that_see(pairs),
    }


if __name__ == "__main__":
    main()
