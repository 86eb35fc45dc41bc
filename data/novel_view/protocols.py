"""Evaluation protocols by name: which views are targets, which are sources, and which pixels count.

Sources of the rules: MVSNeRF (Chen et al. 2021), its evaluation notebook, for `dtu-*`, `llff-*` and `blender-*` but
`blender-test200`, which has the views of NeRF (Mildenhall et al. 2020). Near and far are always those of the data set
(425 to 905 mm in DTU's camera files). Training takes its validation scores by the pixel rule of a protocol as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Bool
from torch import Tensor

from data.novel_view.dataset import Target, pool_targets
from data.problems import Report, raise_problem
from data.readers.splits import dtu_view_lists
from data.scene import PosedScene
from data.view_selection.wide_baseline import surrounding_views
from geometry import InputError, Views

MaskKind = Literal["depth", "object", "none"]
_TRAIN_16, _HELD_OUT_4 = dtu_view_lists()


@dataclass(frozen=True)
class Protocol:
    """One way to evaluate."""

    description: str
    dataset: str | None = None
    """The only data set it is defined for; None = any."""
    num_sources: int | None = None
    """Source views; None = the caller's `--n_views`."""
    pool: tuple[int, ...] = ()
    """Views that may be sources; none = the scene's training views."""
    targets: tuple[int, ...] = ()
    """Views to reproduce; none = the scene's held-out views. Of listed ones, those that a scene has."""
    fixed_sources: tuple[int, ...] = ()
    """The sources of every target; none = the nearest of the pool by L1 distance of camera centers."""
    has_first_sources: bool = False
    """The sources of every target are the first of the pool, in its order, instead of the nearest."""
    view_split: str | None = None
    """Which views train and which are held out, see `ReaderOptions`; None = the caller's `--view_split`."""
    angle: float = 0.0
    """Degrees; above 0 the sources are not the nearest of the pool but `surrounding_views` at about this angle."""
    is_masked: bool = False
    """Pixels without true depth are painted black in truth and prediction, and excluded from PSNR."""
    has_object_psnr: bool = False
    """Report, besides, PSNR over the object's mask where there is one."""
    crop_margin: float = 0.0
    """Share of the image's height and width cut off at each side before anything is compared."""


PROTOCOLS: dict[str, Protocol] = {
    "dtu-nearest3": Protocol(
        "DTU's 4 held-out views from the nearest 3 of its 16 training views, pixels with true depth",
        dataset="dtu",
        num_sources=3,
        pool=_TRAIN_16,
        targets=_HELD_OUT_4,
        is_masked=True,
    ),
    "dtu-fixed3": Protocol(
        "DTU's 4 held-out views from views 25, 21 and 33, pixels with true depth",
        dataset="dtu",
        num_sources=3,
        pool=_TRAIN_16,
        targets=_HELD_OUT_4,
        fixed_sources=_TRAIN_16[:3],
        is_masked=True,
    ),
    "dtu-wide3": Protocol(
        "DTU's 4 held-out views from 3 of its 16 training views on different sides, about 30 degrees away",
        dataset="dtu",
        num_sources=3,
        pool=_TRAIN_16,
        targets=_HELD_OUT_4,
        angle=30.0,
        is_masked=True,
    ),
    "full": Protocol("held-out views from the nearest training views, all pixels", has_object_psnr=True),
    "llff-nearest3": Protocol(
        "MVSNeRF's held-out views from the nearest 3 of its training views, the middle 80 % of the image",
        dataset="llff",
        num_sources=3,
        view_split="mvsnerf",
        crop_margin=0.1,
    ),
    "llff-fixed3": Protocol(
        "MVSNeRF's held-out views from the first 3 of its training views, the middle 80 % of the image",
        dataset="llff",
        num_sources=3,
        has_first_sources=True,
        view_split="mvsnerf",
        crop_margin=0.1,
    ),
    "blender-nearest3": Protocol(
        "MVSNeRF's held-out views from the nearest 3 of its training views, the middle 80 % of the image",
        dataset="blender",
        num_sources=3,
        view_split="mvsnerf",
        crop_margin=0.1,
    ),
    "blender-fixed3": Protocol(
        "MVSNeRF's held-out views from the first 3 of its training views, all pixels",
        dataset="blender",
        num_sources=3,
        has_first_sources=True,
        view_split="mvsnerf",
    ),
    "blender-test200": Protocol(
        "the test frames (200 in NeRF's scenes) from the nearest training frames, all pixels",
        dataset="blender",
        view_split="test",
    ),
}
_OF_DATASET = {"dtu": "dtu-nearest3", "llff": "llff-nearest3", "blender": "blender-nearest3"}
"""MVSNeRF's first protocol of each of its data sets."""


def validation_protocol(name: str, dataset_name: str) -> Protocol:
    """The protocol by whose pixel rule validation scores; no name: MVSNeRF's of the data set, or `full`.

    Raises:
        InputError: for an unknown name, or another data set than the protocol's.
    """
    return _known("--val_protocol", name or _OF_DATASET.get(dataset_name, "full"), dataset_name)


def protocol_named(name: str, dataset_name: str, n_views: int) -> Protocol:
    """Look a protocol up and check that it fits the data set and the number of source views asked for.

    Raises:
        InputError: for an unknown name, another data set than the protocol's, or another number of source views.
    """
    protocol = _known("--protocol", name, dataset_name)
    if protocol.num_sources not in (None, n_views):
        raise InputError(f"--protocol {name}: expected --n_views {protocol.num_sources}, got {n_views}")
    return protocol


def targets_of(protocol: Protocol, scene: PosedScene, n_views: int) -> list[Target]:
    """The protocol's targets in a scene; the candidates of each are its source views, exactly as many as are used.

    Raises:
        InputError: when the scene lacks targets, fixed sources, or enough views to choose sources from.
    """
    target_ids = _present(protocol.targets, scene) if protocol.targets else scene.held_out_views
    if not target_ids:
        wanted = f"views {list(protocol.targets)}" if protocol.targets else "held-out views"
        raise InputError(f"scene {scene.name}: expected {wanted} to evaluate on, got none of them")
    missing = sorted(set(protocol.fixed_sources) - scene.frames.keys())
    if missing:
        expected = list(protocol.fixed_sources)
        raise InputError(f"scene {scene.name}: expected source views {expected}, got a scene without {missing}")
    if protocol.fixed_sources:
        return [Target(scene, view_id, protocol.fixed_sources) for view_id in target_ids]
    pool = _present(protocol.pool, scene) if protocol.pool else scene.train_views
    if protocol.has_first_sources and len(pool) >= n_views:
        return [Target(scene, view_id, pool[:n_views]) for view_id in target_ids]
    targets = pool_targets(replace(scene, train_views=pool), target_ids)
    for target in targets:
        if len(target.candidates) < n_views:
            raise InputError(
                f"scene {scene.name}, view {target.view_id}: expected {n_views} source views (--n_views), "
                f"got only {len(target.candidates)} to choose from"
            )
    if protocol.angle:
        w2c = {view_id: frame.w2c for view_id, frame in scene.frames.items()}
        sources = {
            one.view_id: surrounding_views(w2c, one.view_id, one.candidates, n_views, protocol.angle) for one in targets
        }
        return [Target(scene, view_id, views) for view_id, views in sources.items()]
    return [Target(scene, target.view_id, target.candidates[:n_views]) for target in targets]


def targets_of_all(
    protocol: Protocol, scenes: Sequence[PosedScene], n_views: int, report: Report = raise_problem
) -> list[Target]:
    """The protocol's targets in several scenes, all with one kind of mask, because a mean over several kinds has none.

    Reported and left out are targets that a scene does not have, scenes that lack what else the protocol needs, and
    targets that lack the mask that most have.

    Raises:
        InputError: when no target is left.
    """
    targets: list[Target] = []
    failure: InputError | None = None
    for scene in scenes:
        try:
            targets += targets_of(protocol, scene, n_views)
        except InputError as error:
            if len(scenes) > 1:
                report(error)
            failure = failure or error
            continue
        missing = [view for view in protocol.targets if view not in scene.frames]
        if missing:
            expected = list(protocol.targets)
            report(InputError(f"scene {scene.name}: expected target views {expected}, got a scene without {missing}"))
    if failure and not targets:
        raise failure
    return _with_usual_mask(protocol, targets, report)


def _with_usual_mask(protocol: Protocol, targets: Sequence[Target], report: Report) -> list[Target]:
    if not protocol.is_masked:
        return list(targets)
    kinds = [_mask_kind(target) for target in targets]
    usual = max(("depth", "object mask", "no mask"), key=kinds.count)
    for target, kind in zip(targets, kinds, strict=True):
        if kind != usual:
            where = f"scene {target.scene.name}, view {target.view_id}"
            report(InputError(f"{where}: expected the kind of mask of most targets ({usual}), got {kind}"))
    return [target for target, kind in zip(targets, kinds, strict=True) if kind == usual]


def _mask_kind(target: Target) -> str:
    """What `mask_of` will find for a target of a masked protocol."""
    has_mask = target.scene.frames[target.view_id].mask_path is not None
    return "depth" if target.scene.has_depth(target.view_id) else "object mask" if has_mask else "no mask"


def mask_of(protocol: Protocol, target: Views) -> tuple[MaskKind, Bool[Tensor, "height width"] | None]:
    """Which pixels of a target (one view) count, and by what: true depth, else the object's mask, else all."""
    if protocol.is_masked and target.depth is not None and bool((target.depth > 0).any()):  # all 0: it is unknown
        return "depth", target.depth[0] > 0
    if protocol.is_masked and target.mask is not None:
        return "object", target.mask[0]
    return "none", None


def _known(option: str, name: str, dataset_name: str) -> Protocol:
    if name not in PROTOCOLS:
        raise InputError(f"{option}: expected one of {', '.join(PROTOCOLS)}, got {name!r}")
    protocol = PROTOCOLS[name]
    if protocol.dataset not in (None, dataset_name):
        raise InputError(f"{option} {name}: expected --dataset_name {protocol.dataset}, got {dataset_name!r}")
    return protocol


def _present(views: Sequence[int], scene: PosedScene) -> tuple[int, ...]:
    return tuple(view for view in views if view in scene.frames)
