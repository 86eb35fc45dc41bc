"""Points of the first view in the others: VGGT-nano's soft match, then Lucas and Kanade's alignment of small patches.

The match is good to a fifth of a cell (0.9 pixels), the alignment to 0.2 pixels. Where a camera is rolled the stem
matches badly, so it also sees every view in quarter turns; the affine map that the matches of the best turn agree on
brings the view near the first one, and both match and alignment are done between these two.
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from geometry.track_bundle import Tracks
from models.vggt.aggregator import normalized_images
from models.vggt.match_stem import MatchStem

_WINDOW = 9
"""Pixels along each side of an aligned patch; chosen on procedural groups out of 9, 15, 21."""
_MAX_SHIFT = 6.0
"""Pixels that the alignment may move a match: one and a half cells."""
_ROUND_TRIP = 0.7
"""Pixels that a patch may be off after its alignment there and back."""
_UNALIGNED = 0.1
"""Weight of a match whose patch was not aligned."""
_LEAST_MASS = 0.3
"""Probability of a match within one cell of the best one, below which it does not count. Chosen by hand."""
_TURN_FACTOR = 1.2
"""By which a quarter turn must match better than the view as it is."""
_AFFINE_ERROR, _LEAST_MATCHES = 8.0, 10
"""Pixels up to which matches agree with an affine map: it is rough; and how many it takes."""


class CellMatches(NamedTuple):
    """Where the middles of the cells of the first view are in the others."""

    pixels: Float[Tensor, "other cell 2"]
    """Mean of the matching probability over the best cell and its neighbors."""
    weight: Float[Tensor, "other cell"]
    """Probability of these, of cells that are each other's best match up to one cell; else 0."""

    @classmethod
    def of(cls, logits: Float[Tensor, "other first_cell cell"], cols: int, other_cols: int, cell: int) -> "CellMatches":
        """From match logits of views with so many columns of cells of so many pixels."""
        forth = logits.softmax(-1)
        mutual = forth * logits.softmax(-2)
        best = mutual.argmax(-1)
        rows = logits.shape[-1] // other_cols
        row, col = best // other_cols, best % other_cols
        moments = torch.zeros(*best.shape, 3)
        for step in [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]:
            beside_row, beside_col = row + step[0], col + step[1]
            inside = (beside_row >= 0) & (beside_row < rows) & (beside_col >= 0) & (beside_col < other_cols)
            at = (beside_row.clamp(0, rows - 1) * other_cols + beside_col.clamp(0, other_cols - 1))[..., None]
            mass = forth.gather(-1, at)[..., 0] * inside
            moments += mass[..., None] * torch.stack([beside_col + 0.5, beside_row + 0.5, torch.ones_like(mass)], -1)
        mass = moments[..., 2]
        own = torch.arange(best.shape[-1])
        returned = mutual.argmax(-2).gather(-1, best)
        off = torch.stack([returned % cols - own % cols, returned // cols - own // cols]).abs().amax(0)
        is_sure = (off <= 1) & (mass >= _LEAST_MASS)
        return cls(cell * moments[..., :2] / mass.clamp_min(1e-12)[..., None], mass * is_sure)


@torch.no_grad()
def tracks_from_first_view(
    stem: MatchStem, images: Float[Tensor, "view 3 height width"]
) -> tuple[Tracks, Float[Tensor, "point 2"]]:
    """Tracks of the cells of the first view that are found in another one, and their pixels (corner at 0, 0).

    Images are RGB in [0, 1], on the CPU; so are the tracks, wherever the stem is.
    """
    height, width = images.shape[-2:]
    features = _features(stem, images)
    rows, cols = features.shape[-2:]
    cell = width // cols
    maps = _roughly(stem, images, features, cell)
    near = torch.stack([_warped(image, one) for image, one in zip(images[1:], maps, strict=True)])
    again = stem.compare(features[0], _features(stem, near)).cpu()
    matches = CellMatches.of(again, cols, cols, cell)
    own = cell * torch.stack(torch.meshgrid(torch.arange(cols), torch.arange(rows), indexing="xy"), -1).flatten(0, 1)
    own = own + cell / 2
    gray = [_gray(image) for image in (images[0], *near)]
    found, weights = [], []
    for view, other in enumerate(gray[1:]):
        start = matches.pixels[view]
        aligned, is_aligned = _aligned(gray[0], other, own, start)
        linear, offset = maps[view][:, :2], maps[view][:, 2]
        place = torch.where(is_aligned[:, None], aligned, start).double() @ linear.mT + offset
        inside = ((place >= 0) & (place <= place.new_tensor([width, height]))).all(-1)
        counts = torch.where(is_aligned, 1.0, _UNALIGNED) * (matches.weight[view] > 0) * inside
        found.append(place)
        weights.append(counts.double())
    weight = torch.stack(weights)
    used = (weight > _UNALIGNED).any(0)
    middle = own.new_tensor([width / 2, height / 2]).double()
    pixels = own[used]
    return Tracks(pixels.double() - middle, torch.stack(found)[:, used] - middle, weight[:, used]), pixels


def _features(stem: MatchStem, images: Float[Tensor, "image 3 height width"]) -> Tensor:
    """Of the match cells, on the device of the stem."""
    return stem.match_features(normalized_images(images.to(stem.sharpness)))


def _roughly(stem: MatchStem, images: Tensor, features: Tensor, cell: int) -> list[Float[Tensor, "2 3"]]:
    """Affine maps from pixels of the first view to pixels of the others, by the matches of the best quarter turns."""
    height, width = images.shape[-2:]
    first, cols = features[0], features.shape[-1]
    turns = []
    for quarters in range(4):
        turned = torch.rot90(images[1:], quarters, (-2, -1))
        others = _features(stem, turned) if quarters else features[1:]
        found = CellMatches.of(stem.compare(first, others).cpu(), cols, others.shape[-1], cell)
        turns.append(CellMatches(_turned_back(found.pixels, quarters, height, width), found.weight))
    scores = torch.stack([one.weight.sum(-1) for one in turns])
    scores[0] *= _TURN_FACTOR
    best = scores.argmax(0)
    rows = features.shape[-2]
    own = cell * (torch.stack(torch.meshgrid(torch.arange(cols), torch.arange(rows), indexing="xy"), -1) + 0.5)
    maps = []
    for view, quarters in enumerate(best.tolist()):
        pixels, weight = turns[quarters].pixels[view], turns[quarters].weight[view]
        maps.append(_affine(own.flatten(0, 1)[weight > 0], pixels[weight > 0]))
    return maps


def _turned_back(pixels: Tensor, quarters: int, height: int, width: int) -> Tensor:
    """Pixels of an image after `torch.rot90` by so many quarters -> pixels of the image (height x width)."""
    x, y = pixels.unbind(-1)
    return torch.stack([(x, y), (width - y, x), (width - x, height - y), (y, height - x)][quarters], dim=-1)


def _affine(first: Float[Tensor, "match 2"], second: Float[Tensor, "match 2"]) -> Float[Tensor, "2 3"]:
    """The affine map most matches roughly agree on; the identity without enough of them."""
    found = None
    if len(first) >= _LEAST_MATCHES:
        found, _ = cv2.estimateAffine2D(
            first.numpy(), second.numpy(), method=cv2.RANSAC, ransacReprojThreshold=_AFFINE_ERROR, maxIters=500
        )
    return torch.eye(2, 3, dtype=torch.float64) if found is None else torch.from_numpy(found)


def _warped(image: Float[Tensor, "3 height width"], to_image: Float[Tensor, "2 3"]) -> Float[Tensor, "3 height width"]:
    """The image as an affine map from pixels of the result says; black outside. OpenCV counts integer centers."""
    height, width = image.shape[-2:]
    shift = to_image.clone()
    shift[:, 2] += to_image[:, :2] @ to_image.new_tensor([0.5, 0.5]) - 0.5
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(image.permute(1, 2, 0).numpy(), shift.numpy(), (width, height), flags=flags)
    return torch.from_numpy(warped).permute(2, 0, 1).clamp(0, 1)


def _gray(image: Float[Tensor, "3 height width"]) -> np.ndarray:
    """8 bits, for OpenCV."""
    pixels = np.ascontiguousarray((image.permute(1, 2, 0).numpy() * 255).round().clip(0, 255).astype(np.uint8))
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def _aligned(
    first: np.ndarray, second: np.ndarray, pixels: Float[Tensor, "point 2"], start: Float[Tensor, "point 2"]
) -> tuple[Float[Tensor, "point 2"], Tensor]:
    """Pixels of the second image whose surroundings look like those in the first one, and where that may be believed.

    Lucas and Kanade 1981, from `start`, and back again (Kalal et al. 2010).
    """
    there, has_end = _flow(first, second, pixels, start)
    back, has_start = _flow(second, first, there, pixels)
    is_near = ((there - start).norm(dim=-1) < _MAX_SHIFT) & ((back - pixels).norm(dim=-1) < _ROUND_TRIP)
    return there, has_end & has_start & is_near


def _flow(first: np.ndarray, second: np.ndarray, pixels: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01)
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        first,
        second,
        (pixels - 0.5).float().numpy()[:, None].copy(),
        (start - 0.5).float().numpy()[:, None].copy(),
        winSize=(_WINDOW, _WINDOW),
        maxLevel=0,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        criteria=criteria,
    )
    return torch.from_numpy(found[:, 0]) + 0.5, torch.from_numpy(status[:, 0] > 0)
