"""Cameras from the matches of VGGT-nano's stem in place of those of its camera head.

The stem finds points of the first view in the others whatever the cameras do, while the camera head has learned the
motions of its training. So the matches are taken as tracks and the cameras adjusted to them, as VGGT (Wang et al. 2025,
section 4.1) offers after its own feed-forward prediction; there the cameras start from the network's, here also from
the matches alone (`geometry/track_cameras.py`).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geometry import InputError, require
from geometry.precision import full_precision
from geometry.tensor_struct import TensorStruct
from geometry.track_bundle import Tracks
from geometry.track_cameras import TrackCameras, cameras_from_tracks
from models.vggt.depth_correction import PointDepths, corrected_depth
from models.vggt.image_tracks import tracks_from_first_view
from models.vggt.match_stem import MatchStem
from models.vggt.pose_encoding import decode_pose, encode_pose, homogeneous
from models.vggt.vggt import VGGT, VGGTOutput

_MATCH_ERROR, _DEPTH_ERROR = 0.5, 0.03
"""Pixels, and the relative error of depth from such a match at which a point counts half. Chosen on dev groups."""

_MAX_TRIED = 4
"""Views with a camera, those beside it in the group, through which a view without one may be placed."""


@dataclass(frozen=True)
class MatchedCameras(TensorStruct):
    """Cameras of groups of views in the frame of the first one, in the unit of the predicted depth."""

    pose_enc: Float[Tensor, "*batch view 9"]
    """As `VGGTOutput.pose_enc`. Where `is_matched` is false the pose is the network's own; one lens for all views."""
    depth: Float[Tensor, "*batch view height width"]
    """The predicted one, corrected by the points that the matches triangulate."""
    is_matched: Bool[Tensor, "*batch view"]
    """Views whose cameras are those of the matches; the first is where any is."""
    support: Float[Tensor, "*batch view"]
    """Weight of the matches that fit these; 0 of the first view and of the network's own."""


def require_match_stem(model: object, what: str) -> MatchStem:
    """The stem of a network.

    Raises:
        InputError: naming `what` for a network without one.
    """
    stem = model.aggregator.patch_embed if isinstance(model, VGGT) else None
    require(
        isinstance(stem, MatchStem),
        f"{what}: expected a network with a match stem (patch_embed match, such as VGGT-nano), got one without matches",
    )
    assert isinstance(stem, MatchStem)
    return stem


@torch.no_grad()
@full_precision
def cameras_from_matches(
    images: Float[Tensor, "batch view 3 height width"], output: VGGTOutput, model: VGGT
) -> MatchedCameras:
    """Cameras by the matches of `images` (RGB in [0, 1]), for which `model` predicted `output`.

    All views of a group are taken to share one lens; where no other view has enough matches that fit, all cameras
    remain the network's. But for the stem it is computed on the CPU.

    Raises:
        InputError: for a network without a match stem, or without camera or depth head.
    """
    stem = require_match_stem(model, "cameras from matches")
    if output.pose_enc is None or output.depth is None:
        raise InputError("cameras from matches: expected a network with camera and depth head, got one without")
    groups = [
        _of_group(stem, *(part.float().cpu() for part in group))
        for group in zip(images, output.pose_enc, output.depth[..., 0], strict=True)
    ]
    return MatchedCameras.stack(groups).to(images.device)


def with_matched_cameras(output: VGGTOutput, matched: MatchedCameras) -> VGGTOutput:
    """The output with these cameras and depths; without the point head's points, which belong to the network's own."""
    return replace(
        output,
        pose_enc=matched.pose_enc,
        pose_enc_list=None,
        depth=matched.depth[..., None],
        world_points=None,
        world_points_conf=None,
    )


def _of_group(
    stem: MatchStem,
    images: Float[Tensor, "view 3 height width"],
    pose_enc: Float[Tensor, "view 9"],
    depth: Float[Tensor, "view height width"],
) -> MatchedCameras:
    """Everything without the batch axis."""
    height, width = images.shape[-2:]
    unchanged = MatchedCameras(pose_enc, depth, torch.zeros(len(images)).bool(), torch.zeros(len(images)))
    if len(images) < 2:
        return unchanged
    tracks, pixels = tracks_from_first_view(stem, images)
    column, row = pixels.long().unbind(-1)
    predicted = depth[0, row, column].double()
    found = cameras_from_tracks(tracks, max(height, width), 1 / predicted.clamp_min(1e-6))
    if found is None or not bool(found.is_supported.any()):
        return unchanged
    extrinsics, intrinsics = decode_pose(pose_enc.double(), height, width)
    own = homogeneous(extrinsics)
    own = own @ torch.linalg.inv(own[0])
    unit = _unit(found, predicted)
    group = _Group(
        images,
        torch.cat(
            [
                torch.eye(4).to(own)[None],
                torch.where(found.is_supported[:, None, None], _in_unit(found.w2c, unit), own[1:]),
            ]
        ),
        corrected_depth(depth, _points(tracks, found, unit, height, width)),
        torch.cat([torch.zeros(1), (found.support * found.is_supported).float()]),
        torch.cat([torch.ones(1).bool(), found.is_supported]),
    )
    group.place_through_others(stem, found.focal)
    intrinsics = intrinsics.clone()
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = found.focal
    encoded = encode_pose(group.w2c[:, :3], intrinsics, height, width)
    return MatchedCameras(encoded, group.depth, group.is_matched, group.support)


@dataclass
class _Group:
    """What is known so far of a group; the world is its first view."""

    images: Float[Tensor, "view 3 height width"]
    w2c: Float[Tensor, "view 4 4"]
    depth: Float[Tensor, "view height width"]
    support: Float[Tensor, " view"]
    is_matched: Bool[Tensor, " view"]

    def place_through_others(self, stem: MatchStem, focal: Float[Tensor, ""]) -> None:
        """Place views that share too little with the first one by others that have a camera, while any can be."""
        waiting, placed = (~self.is_matched).nonzero()[:, 0].tolist(), True
        while waiting and placed:
            placed = [view for view in waiting if self._is_placed(stem, view, focal)]
            waiting = [view for view in waiting if view not in placed]

    def _is_placed(self, stem: MatchStem, view: int, focal: Float[Tensor, ""]) -> bool:
        """Whether a view finds enough matches with one of the views beside it; that with the most counts."""
        height, width = self.images.shape[-2:]
        others = self.is_matched.nonzero()[1:, 0].tolist()
        for other in sorted(others, key=lambda other: abs(other - view))[:_MAX_TRIED]:
            tracks, pixels = tracks_from_first_view(stem, self.images[[other, view]])
            column, row = pixels.long().unbind(-1)
            depth = self.depth[other, row, column].double()
            found = cameras_from_tracks(tracks, max(height, width), 1 / depth.clamp_min(1e-6), focal)
            if found is None or not bool(found.is_supported[0]) or found.support[0] <= self.support[view]:
                continue
            unit = _unit(found, depth)
            points = _points(tracks, found, unit, height, width)[1:]
            self.w2c[view] = _in_unit(found.w2c, unit)[0] @ self.w2c[other]
            self.depth[view] = corrected_depth(self.depth[view][None], points)[0]
            self.support[view], self.is_matched[view] = float(found.support[0]), True
        return bool(self.is_matched[view])


def _in_unit(w2c: Float[Tensor, "view 4 4"], unit: Tensor) -> Float[Tensor, "view 4 4"]:
    """With translations times `unit`."""
    scaled = w2c.clone()
    scaled[:, :3, 3] *= unit
    return scaled


def _unit(found: TrackCameras, predicted: Float[Tensor, " point"]) -> Float[Tensor, ""]:
    """Units of the predicted depth per unit of the cameras found: the median over points whose matches fit."""
    return (predicted / found.depth[0])[found.fits.any(0)].median()


def _points(tracks: Tracks, found: TrackCameras, unit: Tensor, height: int, width: int) -> PointDepths:
    """Points in every view; those of little parallax, whose depth is not known well, count less."""
    middle = tracks.pixels.new_tensor([width / 2, height / 2])
    certainty = 1 / (1 + (_MATCH_ERROR / found.parallax.clamp_min(1e-6) / _DEPTH_ERROR).square())
    sees = torch.cat([found.fits.any(0, keepdim=True), found.fits])
    return PointDepths(torch.cat([tracks.pixels[None], tracks.found]) + middle, unit * found.depth, sees * certainty)
