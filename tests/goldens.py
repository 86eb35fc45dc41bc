"""Compare the network with recorded outputs of the reference: `python -m tests.goldens DIR`.

A fixture is a folder with `config.json`, `state_dict.safetensors` and, per input, `<input>.inputs.npz` and
`<input>.outputs.npz` (and `<input>.grads.npz`), one of the training maths with `losses.json` and `losses.npz`, one of
MapAnything's (tests/golden_mapanything.py), of WAI scenes (tests/golden_wai.py), of questions about scenes and metrics
of answers (tests/golden_vqa.py, tests/golden_vqa_metrics.py), or of occupancy data or models
(tests/golden_occupancy_data.py, tests/golden_occupancy.py); every fixture below DIR is checked. Prints the largest
deviation of each output beside its tolerance. Exit status: 0 all within, 1 something beyond, 2 nothing usable found.

The network runs in float64, weights and inputs cast from the recorded float32. In float32 the order of summation, which
differs between CPUs, moves the outputs as far as the tolerances reach; in float64 what remains is the rounding of the
float32 record, the same on every machine, so that tolerances can stay close above it. The parts of the network that are
float32 by design stay so: codes of positions, rotary angles and the resized position embedding are functions of grid
and weights, and their rounding (1e-7 of values about 1) is a hundredth of the tolerances. The losses compute in float32
too, from recorded predictions: sums of at most some thousand terms, rounded at 1e-7 where 1e-5 is tolerated.
"""

import argparse
import json
import re
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from geometry.errors import InputError, one_line_errors
from models.vggt import VGGT, VGGTOutput
from models.vggt.pose_encoding import decode_pose, unproject_depth
from models.vggt.vit import ViTTokens
from tests import (
    golden_mapanything,
    golden_occupancy,
    golden_occupancy_data,
    golden_vqa,
    golden_vqa_metrics,
    golden_wai,
)
from tests.golden_comparison import Comparison
from tests.golden_training import INPUTS, RecordedScene

Arrays = dict[str, np.ndarray]

OTHER_KINDS = (
    golden_mapanything,
    golden_occupancy,
    golden_occupancy_data,
    golden_vqa,
    golden_vqa_metrics,
    golden_wai,
)
"""Of fixtures than VGGT's; a folder may hold several."""
TRAINING_VALUES, TRAINING_ARRAYS = "losses.json", "losses.npz"

TOLERANCES: tuple[tuple[str, float, float], ...] = (  # pattern of the name, absolute, relative
    (r"aggregated_\d+|patch_tokens|vit_clstoken|vit_regtokens", 3e-5, 0.0),
    (r"pose_enc_\d+", 1e-5, 0.0),
    (r"intrinsics", 0.0, 1e-5),
    (r"extrinsics", 1e-5, 1e-5),
    (r"depth|depth_conf|world_points|world_points_conf|unprojected_points", 1e-5, 1e-4),
    (r"track_features", 1e-4, 0.0),
    (r"track_vis|track_conf", 1e-3, 0.0),
    (r"patch_start_idx|params_without_grad", 0.0, 0.0),
    (r"objective", 1e-4, 1e-5),
    (r"norm_\w+|gt_pose_encoding|[^/]+/\w+", 1e-6, 1e-5),
    (r"quantile_.*", 0.0, 0.0),
    (r"lr_value", 0.0, 1e-6),
)
GRADIENT_TOLERANCE = 1e-4
"""Of the gradient of a parameter or a prediction, relative to its largest entry."""
VECTORS = ("world_points",)
"""Outputs whose relative tolerance is of the length of each vector: `norm_exp` makes the length of a point exponential,
and its rounding reaches each coordinate in proportion to the length, also one that happens to be near zero."""
TRACK_TOLERANCE = 5e-5
"""Of the first iteration's coordinates in pixels; ten times more after each further one (flow embedding)."""


def tolerance_of(name: str, expected: np.ndarray) -> tuple[float, float]:
    """Absolute and relative tolerance of an output."""
    if match := re.fullmatch(r"track_coords_(\d+)", name):
        return TRACK_TOLERANCE * 10 ** int(match[1]), 0.0
    if name.startswith(("grad:", "grad_")):
        return GRADIENT_TOLERANCE * float(np.abs(expected).max(initial=0.0)), 0.0
    for pattern, absolute, relative in TOLERANCES:
        if re.fullmatch(pattern, name):
            return absolute, relative
    raise KeyError(name)


def compare(name: str, expected: np.ndarray, got: np.ndarray | None) -> Comparison:
    """Deviation of `got`; None stands for an output the network does not give."""
    if got is None:
        return Comparison(name, float("inf"), "unknown output", False)
    if got.shape != expected.shape:
        return Comparison(name, float("inf"), f"shape {expected.shape}, got {got.shape}", False)
    absolute, relative = tolerance_of(name, expected)
    expected, got = expected.astype(np.float64), got.astype(np.float64)
    size = np.linalg.norm(expected, axis=-1, keepdims=True) if name in VECTORS else np.abs(expected)
    with np.errstate(invalid="ignore"):
        difference = np.where(expected == got, 0.0, np.abs(expected - got))  # equal infinities do not differ
        is_within = bool(np.all(difference <= absolute + relative * size))
    deviation = float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0))
    parts = [f"{absolute:.1e}"] if absolute or not relative else []
    parts += [f"{relative:.0e} {'of length' if name in VECTORS else 'relative'}"] if relative else []
    return Comparison(name, deviation, " + ".join(parts), is_within)


class Outputs:
    """The network's outputs on one input, by their names in the fixtures."""

    def __init__(self, model: VGGT, images: Tensor, query_points: Tensor | None, recorded: Arrays) -> None:
        """Run the network; `recorded` names the layers to keep and is what decoding and unprojection start from."""
        self.model = model
        self.images = images
        self.recorded = recorded
        names = [match for match in (re.fullmatch(r"aggregated_(\d+)", name) for name in recorded) if match]
        depth = model.config.aggregator.depth
        layers = {int(match[1]) for match in names if int(match[1]) < depth}
        wants_tracks = model.track_head is not None and any(name.startswith("track_") for name in recorded)
        if wants_tracks:
            layers |= set(model.config.track_head.feature_extractor.intermediate_layer_idx)
        self.output: VGGTOutput = model(images, query_points if wants_tracks else None, keep_layers=layers)

    def get(self, name: str) -> Tensor | None:
        """The output of that name, None if the network has none."""
        if match := re.fullmatch(r"(aggregated|pose_enc|track_coords)_(\d+)", name):
            return self._numbered(match[1], int(match[2]))
        renamed = {"track_vis": "vis", "track_conf": "conf", "patch_start_idx": "patch_start"}.get(name, name)
        if renamed in ("depth", "depth_conf", "world_points", "world_points_conf", "vis", "conf", "patch_start"):
            value = getattr(self.output, renamed)
            return torch.tensor(value) if isinstance(value, int) else value
        special: dict[str, Callable[[], Tensor | None]] = {
            "track_features": self._track_features,
            "patch_tokens": lambda: self._embedding("patch_tokens"),
            "vit_clstoken": lambda: self._embedding("class_token"),
            "vit_regtokens": lambda: self._embedding("register_tokens"),
            "extrinsics": lambda: self._camera(0),
            "intrinsics": lambda: self._camera(1),
            "unprojected_points": self._unprojected_points,
        }
        return special[name]() if name in special else None

    def _numbered(self, kind: str, index: int) -> Tensor | None:
        if kind == "aggregated":
            return self.output.tokens.get(index)
        values = (self.output.pose_enc_list if kind == "pose_enc" else self.output.track_list) or []
        return values[index] if index < len(values) else None

    def _embedding(self, part: str) -> Tensor | None:
        tokens = self.model.aggregator.embed_patches(self.images)
        if isinstance(tokens, ViTTokens):
            return getattr(tokens, part)
        return tokens if part == "patch_tokens" else None

    def _track_features(self) -> Tensor | None:
        if self.model.track_head is None:
            return None
        head = self.model.track_head.feature_extractor
        return head(self.output.tokens, self.output.patch_start, tuple(self.images.shape[-2:]))

    def _recorded_or(self, name: str, value: Tensor | None) -> Tensor | None:
        """The record where there is one: it is compared elsewhere, and a chain would only amplify its rounding."""
        if value is None or name not in self.recorded or self.recorded[name].shape != value.shape:
            return value
        return torch.from_numpy(self.recorded[name]).double()

    def _camera(self, which: int) -> Tensor | None:
        if self.output.pose_enc_list is None:
            return None
        last = len(self.output.pose_enc_list) - 1
        encoding = self._recorded_or(f"pose_enc_{last}", self.output.pose_enc)
        return decode_pose(encoding, *self.images.shape[-2:])[which]

    def _unprojected_points(self) -> Tensor | None:
        depth = self._recorded_or("depth", self.output.depth)
        extrinsics = self._recorded_or("extrinsics", self._camera(0))
        intrinsics = self._recorded_or("intrinsics", self._camera(1))
        if depth is None or extrinsics is None or intrinsics is None:
            return None
        points = unproject_depth(depth[..., 0], extrinsics, intrinsics)
        return points[0] if self.recorded["unprojected_points"].ndim == 4 else points


def check_outputs(model: VGGT, inputs: Arrays, recorded: Arrays) -> list[Comparison]:
    """Every recorded output against the network's, in evaluation mode; makes the network float64."""
    images, query_points = _network_inputs(inputs)
    with torch.no_grad():
        outputs = Outputs(model.double().eval(), images, query_points, recorded)
        got = {name: outputs.get(name) for name in recorded}
    return [
        compare(name, expected, None if got[name] is None else got[name].numpy()) for name, expected in recorded.items()
    ]


def check_gradients(model: VGGT, inputs: Arrays, recorded: Arrays) -> list[Comparison]:
    """Gradients of sum <cotangent, output> in training mode, the track head off, against the recorded ones.

    Makes the network float64.
    """
    cotangents = {name.removeprefix("cotangent:"): v for name, v in recorded.items() if name.startswith("cotangent:")}
    model.double().train()
    model.zero_grad(set_to_none=True)
    outputs = Outputs(model, _network_inputs(inputs)[0], None, cotangents)
    terms = {name: outputs.get(name) for name in cotangents}
    unknown = [name for name, value in terms.items() if value is None]
    if unknown:
        return [compare(f"cotangent:{name}", cotangents[name], None) for name in unknown]
    objective = sum(((terms[name] * torch.from_numpy(v)).sum() for name, v in cotangents.items()), torch.zeros(()))
    objective.backward()
    parameters = dict(model.named_parameters())
    results = []
    if "objective" in recorded:
        results.append(compare("objective", recorded["objective"], objective.detach().numpy()))
    for name, expected in recorded.items():
        if name.startswith(("grad:", "grad_")):
            parameter = parameters.get(name.removeprefix("grad:"))
            gradient = None if parameter is None or parameter.grad is None else parameter.grad.numpy()
            results.append(compare(name, expected, gradient))
    if "params_without_grad" in recorded:
        results.append(_compare_missing(parameters, recorded["params_without_grad"]))
    model.zero_grad(set_to_none=True)
    return results


def _compare_missing(parameters: dict[str, torch.nn.Parameter], recorded: np.ndarray) -> Comparison:
    """Whether the same parameters got no gradient, leaving out the track head and what never takes one."""
    considered = {n for n, p in parameters.items() if p.requires_grad and not n.startswith("track_head.")}
    expected = {name.decode() if isinstance(name, bytes) else str(name) for name in recorded.tolist()} & considered
    differing = expected ^ {name for name in considered if parameters[name].grad is None}
    return Comparison("params_without_grad", float(len(differing)), "the same set", not differing)


def _network_inputs(inputs: Arrays) -> tuple[Tensor, Tensor | None]:
    if "images" not in inputs:
        raise InputError(f"an inputs file must hold images, got {', '.join(inputs) or 'nothing'}")
    query_points = inputs.get("query_points")
    return torch.from_numpy(inputs["images"]).double(), (
        None if query_points is None else torch.from_numpy(query_points).double()
    )


def find_fixtures(root: Path) -> list[Path]:
    """Fixture folders at or below `root`; none is an `InputError`."""
    if not root.is_dir():
        raise InputError(f"fixture folder {root} does not exist or is no folder")
    others = sorted(
        folder for folder in {root, *(path.parent for path in root.rglob("*") if path.is_file())} if _other_kind(folder)
    )
    names = ("config.json", TRAINING_VALUES)
    folders = sorted({path.parent for name in names for path in root.rglob(name)} - set(others))
    if not folders and not others:
        raise InputError(f"no fixture (config.json, state_dict.safetensors, *.inputs.npz) below {root}")
    for folder in folders:
        if (folder / TRAINING_VALUES).is_file():
            if not (folder / TRAINING_ARRAYS).is_file():
                raise InputError(f"fixture {folder} lacks {TRAINING_ARRAYS}")
        elif not (folder / "state_dict.safetensors").is_file() or not any(folder.glob("*.inputs.npz")):
            raise InputError(f"fixture {folder} lacks state_dict.safetensors or *.inputs.npz")
    return folders + others


def _other_kind(folder: Path) -> Callable[[Path], dict[str, list[Comparison]]] | None:
    """The check of a folder with fixtures of other kinds than VGGT's."""
    checks = [check for kind in OTHER_KINDS if (check := kind.kind_of(folder)) is not None]

    def check_all(folder: Path) -> dict[str, list[Comparison]]:
        return {name: found for check in checks for name, found in check(folder).items()}

    return check_all if checks else None


def load_model(folder: Path) -> VGGT:
    """The fixture's network; weights must fit it exactly."""
    model = VGGT.from_config(folder / "config.json")
    path = folder / "state_dict.safetensors"
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(f"weights {path} do not fit or cannot be read: {' '.join(str(error).split())}") from error
    return model


def read_arrays(path: Path) -> Arrays:
    """All arrays of an npz file; pickled ones are refused."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"arrays {path} cannot be read: {error}") from error


def check_training(folder: Path) -> dict[str, list[Comparison]]:
    """Losses, their gradients, the normalized scene and the learning rates of a training fixture."""
    record = read_arrays(folder / TRAINING_ARRAYS)
    try:
        values = {name: float(value) for name, value in json.loads((folder / TRAINING_VALUES).read_text()).items()}
        scene = RecordedScene(record)
        tasks = sorted({name.split("/")[0] for name in values})
        losses = {f"{task}/{part}": value for task in tasks for part, value in scene.losses(task).items()}
        arrays = scene.arrays()
    except (KeyError, ValueError) as error:
        raise InputError(f"training fixture {folder} is incomplete or has an unknown entry: {error}") from error
    got = {name: np.array(value) for name, value in losses.items()}
    computed = {name: value for name, value in record.items() if not name.startswith(INPUTS)}
    return {
        TRAINING_VALUES: [compare(name, np.array(value), got.get(name)) for name, value in values.items()],
        TRAINING_ARRAYS: [compare(name, value, arrays.get(name)) for name, value in computed.items()],
    }


def check_fixture(folder: Path) -> dict[str, list[Comparison]]:
    """Comparisons by file name, for every input of a fixture."""
    if check := _other_kind(folder):
        return check(folder)
    if (folder / TRAINING_VALUES).is_file():
        return check_training(folder)
    model = load_model(folder)
    results = {}
    for inputs_file in sorted(folder.glob("*.inputs.npz")):
        stem = inputs_file.name.removesuffix(".inputs.npz")
        inputs = read_arrays(inputs_file)
        outputs_file, gradients_file = folder / f"{stem}.outputs.npz", folder / f"{stem}.grads.npz"
        results[outputs_file.name] = check_outputs(model, inputs, read_arrays(outputs_file))
        if gradients_file.is_file():
            results[gradients_file.name] = check_gradients(model, inputs, read_arrays(gradients_file))
    return results


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    """Check all fixtures below a folder and print one line per output."""
    parser = argparse.ArgumentParser(prog="python -m tests.goldens", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder with fixtures at any depth")
    root = parser.parse_args(arguments).folder
    torch.set_num_threads(1)
    num_outputs, num_beyond = 0, 0
    for folder in find_fixtures(root):
        for file, comparisons in check_fixture(folder).items():
            print(f"{folder / file}")
            for item in comparisons:
                verdict = "ok" if item.is_within else "BEYOND"
                print(f"  {item.name:<70} {item.deviation:10.2e}   tolerance {item.tolerance:<24} {verdict}")
            num_outputs += len(comparisons)
            num_beyond += sum(not item.is_within for item in comparisons)
    print(f"{num_outputs} outputs compared, {num_beyond} beyond tolerance")
    sys.exit(1 if num_beyond else 0)


if __name__ == "__main__":
    main()
