"""What all products are made of: depth, color and opacity of many views, rendered once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from data.depth_fusion import DepthMaps
from data.image_io import write_bytes
from data.novel_view.dataset import pool_targets
from data.scene import PosedScene
from geometry import Cameras, InputError, TensorStruct, Views
from models.nerf.vggt_nerf import VGGTNeRF, render_image
from render.export.cameras import names_in
from training.precision import autocast_of

USUAL_OPACITY = 0.5
"""Rays of less opacity have no depth: more than half of what they show is background. Chosen by hand."""
_FREE_OPACITY = 0.1
"""Rays of less opacity meet nothing, so that all they pass is free; chosen by hand."""
_BORDER = 0.01
"""Share of near and of far within which depth is that of the bounds; chosen by hand."""


@dataclass(frozen=True)
class Renderings(TensorStruct):
    """Views of one scene as a model sees them. One leading axis."""

    names: tuple[str, ...]
    """One per view, unique, fit for file names."""
    cameras: Cameras
    """Of the rendered pixels."""
    depth: Float[Tensor, "view height width"]
    """Camera z, scene units; 0 where the ray hits nothing."""
    colors: Float[Tensor, "view height width 3"]
    """RGB in [0, 1]."""
    confidence: Float[Tensor, "view height width"]
    """0 to 1: opacity; of VGGT 1 - 1 / c, with c its confidence."""
    near: Float[Tensor, " view"]
    """Camera z where rays start, scene units."""
    far: Float[Tensor, " view"]
    scene_far: Float[Tensor, " view"]
    """Camera z where the scene ends, at most `far`: what open rays see behind it is background."""

    def confident_depth_maps(self, percentile: float) -> DepthMaps:
        """For fusion of what is no rendering: depth is unknown where the confidence is below its percentile of all."""
        known = self.depth > 0
        values = self.confidence[known]
        least = np.percentile(values.numpy(), percentile) if len(values) else 0.0
        return DepthMaps(
            cameras=self.cameras,
            depth=self.depth * (known & (self.confidence >= least)),
            colors=self._bytes(),
            confidence=self.confidence,
        )

    def depth_maps(self, min_opacity: float = USUAL_OPACITY, *, keeps_background: bool = False) -> DepthMaps:
        """For fusion: depth is unknown below `min_opacity` and at the borders of the field (near and far).

        So it is behind the scene's far, unless the background is kept. Rays with next to no opacity are free as far as
        they were marched.
        """
        near, far = self.near[:, None, None], self.far[:, None, None]
        inside = (self.depth > (1 + _BORDER) * near) & (self.depth < (1 - _BORDER) * far)
        if not keeps_background:
            inside &= self.depth <= self.scene_far[:, None, None]
        known = inside & (self.confidence >= min_opacity)
        is_free = self.confidence < min(_FREE_OPACITY, min_opacity)
        return DepthMaps(
            cameras=self.cameras,
            depth=self.depth * known,
            colors=self._bytes(),
            confidence=self.confidence,
            free_until=is_free * far,
        )

    def _bytes(self) -> UInt8[Tensor, "view height width 3"]:
        return (self.colors.clamp(0, 1) * 255).round().to(torch.uint8)


@torch.no_grad()
def render_views(
    model: VGGTNeRF,
    scene: PosedScene,
    view_ids: Sequence[int],
    n_views: int,
    *,
    device: torch.device,
    scale: float = 1.0,
    chunk: int = 4096,
    precision: str = "32-true",
    on_view: Callable[[], object] | None = None,
) -> Renderings:
    """Views of a scene as evaluation renders them: each from the nearest of the other training views.

    With a progress bar in rays, unless `on_view` is given, which is then called after every view.

    Raises:
        InputError: for fewer training views than `n_views` beside a view, or images of different sizes.
    """
    targets = pool_targets(scene, view_ids)
    for target in targets:
        if len(target.candidates) < n_views:
            raise InputError(
                f"scene {scene.name}, view {target.view_id}: expected {n_views} source views (--n_views), got only "
                f"{len(target.candidates)} other training views"
            )
    cameras = scene.cameras(view_ids, scale)
    near, far = scene.near_far(view_ids)
    images, bounds, ends = [], [], []
    model.cache.clear()
    with tqdm(total=len(targets), unit="view", desc=f"{scene.scan} depth", disable=on_view is not None) as bar:
        for index, target in enumerate(targets):
            sources = target.candidates[:n_views]
            source = Views.stack([scene.views(sources, scale, wants_depth=False, wants_mask=False).to(device)])
            one = slice(index, index + 1)
            with autocast_of(precision, device):
                maps = model.encode(source, (scene.name,))
                view = model.view(maps, cameras[one].to(device), near[one].to(device), far[one].to(device))
                images.append(render_image(view, chunk))
            bounds.append(torch.stack([view.bounds.near, view.bounds.far]).float().cpu())
            ends.append(
                view.bounds.far.cpu() if view.bounds.is_auto.item() else view.bounds.far.cpu().minimum(far[one])
            )
            bar.update()
            (on_view or bar.refresh)()
    model.cache.clear()
    marched = torch.cat(bounds, dim=1)
    return Renderings(
        names=file_names(scene, view_ids),
        cameras=cameras,
        depth=torch.stack([image.depth for image in images]).float(),
        colors=torch.stack([image.rgb for image in images]).float(),
        confidence=torch.stack([image.opacity for image in images]).float().clamp(0, 1),
        near=marched[0],
        far=marched[1],
        scene_far=torch.cat(ends).float(),
    )


def file_names(scene: PosedScene, view_ids: Sequence[int]) -> tuple[str, ...]:
    """Names for files about views: those of their images without extension; folders become part of the name."""
    names = names_in([scene.frames[view].image_path for view in view_ids])
    stems = tuple(name.rsplit(".", 1)[0].replace("/", "_") for name in names)
    return stems if len(set(stems)) == len(stems) else tuple(f"{view:06d}" for view in view_ids)


def save_renderings(path: Path, renderings: Renderings, key: str) -> None:
    """Write renderings as .npz; `key` says what they were rendered from."""
    arrays = {name: value.numpy() for name, value in vars(renderings).items() if isinstance(value, Tensor)}
    cameras = {"w2c": renderings.cameras.w2c.numpy(), "intrinsics": renderings.cameras.intrinsics.numpy()}
    content = BytesIO()
    np.savez(content, key=np.array(key), names=np.array(renderings.names), **arrays, **cameras)
    write_bytes(path, content.getvalue())


def saved_renderings(path: Path, key: str) -> Renderings | None:
    """Renderings that `save_renderings` wrote under the same key; None if there are none."""
    if not path.is_file():
        return None
    try:
        with np.load(path) as file:
            if str(file["key"]) != key:
                return None
            found = {name: torch.from_numpy(file[name]) for name in file.files if name not in ("key", "names")}
            names = tuple(str(name) for name in file["names"])
    except (OSError, ValueError, KeyError, BadZipFile):  # damaged: rendered again
        return None
    if found.keys() != {field.name for field in fields(Renderings)} - {"names", "cameras"} | {"w2c", "intrinsics"}:
        return None  # of another version
    height, width = found["depth"].shape[1:]
    cameras = Cameras(found.pop("w2c"), found.pop("intrinsics"), height, width)
    return Renderings(names=names, cameras=cameras, **found)
