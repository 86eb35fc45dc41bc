"""Endless procedural scenes for training VGGT, rendered when they are asked for and never stored.

Cameras look at the table from DTU's rig, from denser rows of the same kind, or from anywhere above it; frames of a
group are neighbors. Distances, lenses, ground, walls, background and light vary from group to group. With a
`MotionMix` that is one kind of motion among others (data/procedural/motions.py), some of them inside rooms.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from data.multi_view.sensor import photographed
from data.multi_view.sources import GroupKey
from data.procedural.motions import (
    ORBIT,
    PAN,
    PARALLEL,
    RIG,
    MotionMix,
    Recipe,
    before_table,
    center_of,
    drawn_together,
    moving_cameras,
    raised,
    random_lens,
)
from data.procedural.photographs import photograph_wall
from data.procedural.rigs import AIM_HEIGHT, DTU_INTRINSICS, dtu_rig, look_at, on_sphere
from data.procedural.rooms import MARGIN, clear_of, furnished, random_room, room_around
from data.procedural.scene import NUM_LIGHTS, Item, Scene, enlarged, make_scene, random_texture, rotation_z
from data.procedural.shapes import Box
from data.procedural.textures import NoiseTexture
from data.procedural.torch_tracer import render_views
from geometry import Cameras, FrameBatch, InputError, Traits, Views

ENDLESS = 1_000_000
"""Number of scenes of a stream without an end: more than any run takes."""
MAX_FRAMES = 49
"""Of a group: DTU's rig has no more cameras."""
FRAMES_PER_SCENE = 8
"""Of a scene that is reused: groups take different ones of them, in different order. Chosen by hand."""
_CACHE_BYTES = 6 << 30
"""6 GiB of reused scenes in each loading process; beyond it the least recently used ones are rendered again."""
_STREAM = 20261121  # keeps the scenes of the stream apart from those of `data.procedural`, whatever the seeds
_WIDE_GROUND = (260.0, 700.0)
"""Half sides in millimeters; ordinary tables have 125 to 205. Chosen by hand."""
_ROOM = 230.0
"""Millimeters from the middle of the table that an enlarged solid may reach; the nearest cameras are about 440 away."""
_MAX_SCREEN_WIDTH = 480.0
"""Millimeters along all walls together; chosen by hand."""
_TRAITS = Traits(meters=1e-3, is_synthetic=True)
_SENSOR_STREAM = 20261126  # keeps what the sensor does apart from what there is to see
_WALLED, _SCREENED = 0.5, 0.2
"""Shares of groups before a table with walls all around, and with a folding screen. Chosen by hand."""
_CLEARANCE, _LEAST_CLEARANCE = 0.12, 15.0
"""Solids nearer to a camera are left out: share of the distance looked at, and millimeters. Chosen by hand."""
EVALUATED_MOTIONS = {
    "rig": MotionMix(((RIG, 1.0),)),
    "orbit": MotionMix(((ORBIT, 1.0),), rolls=0.0),
    "parallel": MotionMix(((PARALLEL, 1.0),), rooms=0.0, rolls=0.0),
    "pan": MotionMix(((PAN, 1.0),), rooms=0.0, rolls=0.0),
    "room": MotionMix(((PARALLEL, 1.0), (PAN, 1.0)), rooms=1.0, rolls=0.0),
    "rolled": MotionMix(((ORBIT, 1.0), (PARALLEL, 1.0), (PAN, 1.0)), rooms=0.5, rolls=1.0),
}
"""Kinds of motion that are evaluated apart from each other."""
GROUPS_PER_MOTION = 32
"""Of an evaluation."""


class ProceduralFrames:
    """A `FrameSource` that renders its groups: of endlessly many scenes, or of a given number that is reused."""

    name = "procedural"

    def __init__(
        self,
        *,
        seed: int,
        num_scenes: int = 0,
        device: torch.device | str = "cpu",
        mix: MotionMix | None = None,
        sensor: float = 0.0,
    ) -> None:
        """Scenes are drawn from `seed` and their number, traced on `device`, returned on the CPU.

        `num_scenes` 0: every group is rendered afresh. Otherwise so many scenes are reused, each with
        `FRAMES_PER_SCENE` frames that are rendered once and kept in memory (of each loading process).
        `mix`: kinds of motion; None: `rig` only. `sensor`: share of groups that data/multi_view/sensor.py photographs.
        """
        self.seed = seed
        self.num_scenes = num_scenes
        self.mix = mix
        self.sensor = sensor
        self.device = torch.device(device)
        self._kept: OrderedDict[tuple[int, int, int], _KeptScene] = OrderedDict()
        self._kept_bytes = 0

    def __len__(self) -> int:
        """Number of scenes."""
        return self.num_scenes or ENDLESS

    def sample_many(self, keys: Sequence[GroupKey]) -> list[FrameBatch]:
        """One rendered group per key: what `FrameSource` demands."""
        return [self._sample(key) for key in keys]

    def _sample(self, key: GroupKey) -> FrameBatch:
        name = f"{self.name}/{key.item}"
        if key.num_frames > MAX_FRAMES:
            raise InputError(
                f"--n_views, --eval_views: expected at most {MAX_FRAMES} frames of a procedural scene, "
                f"got {key.num_frames}"
            )
        if not self.num_scenes:
            rng = np.random.default_rng((_STREAM, self.seed, key.item, key.seed))
            views = self._photographed(self._render(rng, key, key.num_frames), key)
            return FrameBatch(views, (name,), torch.tensor(key.seed), (_TRAITS,))
        if key.num_frames > FRAMES_PER_SCENE:
            raise InputError(
                f"--n_views: expected at most {FRAMES_PER_SCENE} frames of a procedural scene that comes back "
                f"(--procedural_scenes {self.num_scenes}), got {key.num_frames}"
            )
        scene = self._scene(key)
        rng = np.random.default_rng((_STREAM, key.seed))
        chosen = torch.from_numpy(_neighbors(scene.cameras, key.num_frames, rng))
        views = _as_views(scene.images[chosen].float() / 255, scene.cameras[chosen], scene.depth[chosen])
        return FrameBatch(self._photographed(views, key), (name,), torch.tensor(key.seed), (_TRAITS,))

    def _photographed(self, views: Views, key: GroupKey) -> Views:
        """What a sensor makes of the frames of some groups."""
        rng = np.random.default_rng((_SENSOR_STREAM, key.seed))
        return replace(views, images=photographed(views.images, rng)) if rng.random() < self.sensor else views

    def _scene(self, key: GroupKey) -> "_KeptScene":
        """All frames of a reused scene."""
        kept_as = (key.item, key.height, key.width)
        if kept_as in self._kept:
            self._kept.move_to_end(kept_as)
            return self._kept[kept_as]
        rng = np.random.default_rng((_STREAM, self.seed, key.item))
        views = self._render(rng, key, FRAMES_PER_SCENE)
        scene = _KeptScene((views.images * 255).round().to(torch.uint8), views.cameras, views.depth)
        self._kept[kept_as] = scene
        self._kept_bytes += scene.num_bytes
        while self._kept_bytes > _CACHE_BYTES:
            self._kept_bytes -= self._kept.popitem(last=False)[1].num_bytes
        return scene

    def _render(self, rng: np.random.Generator, key: GroupKey, count: int) -> Views:
        recipe = Recipe(RIG, in_room=False, is_rolled=False) if self.mix is None else self.mix.draw(rng)
        make = _rig_group if recipe.kind == RIG else _moving_group
        scene, cameras = make(rng, recipe, (_STREAM, self.seed, key.item), count, key)
        light = int(rng.integers(NUM_LIGHTS))
        rendered = render_views(scene, cameras.to(self.device), light)
        images, depth = rendered.images.cpu(), rendered.depth.cpu()
        images = torch.where(depth[:, None] > 0, images, _background(rng, key.height, key.width))
        return _as_views(images, cameras.to(torch.float32), depth)


class MotionGroups:
    """A `FrameSource` of groups to evaluate with: as many of every kind of motion, named after it."""

    name = ProceduralFrames.name

    def __init__(self, *, seed: int, device: torch.device | str = "cpu") -> None:
        """Scenes are drawn from `seed` and their number, traced on `device`, returned on the CPU."""
        self._streams = {
            name: ProceduralFrames(seed=seed, device=device, mix=mix) for name, mix in EVALUATED_MOTIONS.items()
        }

    def __len__(self) -> int:
        """Number of groups; those of one kind come one after the other."""
        return GROUPS_PER_MOTION * len(self._streams)

    def sample_many(self, keys: Sequence[GroupKey]) -> list[FrameBatch]:
        """See `FrameSource`."""
        kinds = list(self._streams)
        groups = []
        for key in keys:
            kind = kinds[key.item // GROUPS_PER_MOTION]
            group = self._streams[kind].sample_many([key])[0]
            groups.append(replace(group, names=(f"{self.name}/{kind}",)))
        return groups


class _KeptScene(NamedTuple):
    """All frames of a reused scene."""

    images: UInt8[Tensor, "frame 3 height width"]
    cameras: Cameras
    depth: Float[Tensor, "frame height width"]

    @property
    def num_bytes(self) -> int:
        return self.images.nbytes + self.depth.nbytes


def _as_views(images: Tensor, cameras: Cameras, depth: Tensor) -> Views:
    """With the bounds of what each frame shows."""
    flat = depth.flatten(1)
    nearest = torch.where(flat > 0, flat, torch.inf).amin(1)
    return Views(
        images=images,
        cameras=cameras,
        near=torch.where(nearest.isfinite(), nearest, 1.0),
        far=flat.amax(1).clamp_min(2.0),
        ids=torch.arange(len(images)),
        depth=depth,
        no_surface=depth == 0,
    )


def _neighbors(cameras: Cameras, count: int, rng: np.random.Generator) -> Int[np.ndarray, " frame"]:
    """A random camera, then others out of those nearest to it."""
    centers = cameras.centers.numpy()
    anchor = int(rng.integers(len(centers)))
    order = np.argsort(np.linalg.norm(centers - centers[anchor], axis=1), kind="stable")[1:]
    reach = min(len(order), max(count - 1, int(rng.uniform(1, 2.5) * count)))
    return np.array([anchor, *rng.permutation(order[:reach])[: count - 1]])


def _rig_group(
    rng: np.random.Generator, recipe: Recipe, seed: tuple[int, ...], count: int, key: GroupKey
) -> tuple[Scene, Cameras]:
    """A table seen from DTU's rig or alike."""
    scene = _varied(make_scene(seed, has_backdrop=rng.random() < 0.7), rng)
    cameras = _neighboring_cameras(rng, count, key.height, key.width)
    if rng.random() < 0.35:
        table, *others = scene.items
        stands = [table] if rng.random() < 0.5 else []
        scene = replace(scene, items=(*stands, *others, *_folding_screen(rng, cameras)))
    return scene, cameras


def _moving_group(
    rng: np.random.Generator, recipe: Recipe, seed: tuple[int, ...], count: int, key: GroupKey
) -> tuple[Scene, Cameras]:
    """A table, open or with walls around, a room, or a photograph, seen by cameras that move as the recipe says."""
    lens = random_lens(rng, key.height, key.width)
    if recipe.is_photo:
        stand = before_table(rng, lens)
        w2c = moving_cameras(rng, recipe, stand, lens, count)
        centers = np.stack([center_of(one) for one in w2c])
        return photograph_wall(rng, stand, lens, centers), lens.cameras(rng, w2c)
    scene = make_scene(seed, has_backdrop=False)
    if recipe.in_room:
        room = random_room(rng)
        stand = room.stand(rng, lens)
        w2c = moving_cameras(rng, recipe, stand, lens, count)
        w2c = drawn_together(w2c, room.low + MARGIN, room.high - MARGIN)
        scene = furnished(rng, scene, room)
    else:
        stand = before_table(rng, lens)
        w2c = raised(moving_cameras(rng, recipe, stand, lens, count))
        scene, surroundings = _varied(scene, rng), rng.random()
        if surroundings < _WALLED:
            room = room_around(rng, np.stack([center_of(one) for one in w2c]))
            scene = replace(scene, items=(*scene.items, *room.walls(rng, has_ceiling=rng.random() < 0.5)))
        elif surroundings < _WALLED + _SCREENED:
            scene = replace(scene, items=(*scene.items, *_folding_screen(rng, lens.cameras(rng, w2c))))
    centers = np.stack([center_of(one) for one in w2c])
    scene = clear_of(scene, centers, max(_LEAST_CLEARANCE, _CLEARANCE * stand.depth))
    return scene, lens.cameras(rng, w2c)


def _varied(scene: Scene, rng: np.random.Generator) -> Scene:
    """Ground that reaches to the horizon, a plain white table, things that fill the picture: each now and then."""
    table, *objects = scene.items
    if rng.random() < 0.35:
        half = np.array([*rng.uniform(*_WIDE_GROUND, 2), 8.0])
        table = replace(table, shape=Box(half), rotation=np.eye(3), center=np.array([0.0, 0.0, -8.0]))
    if rng.random() < 0.2:
        shades = rng.uniform(0.75, 1.0) * np.array([[0.85], [0.95], [1.0]]) * np.ones((1, 3))
        table = replace(table, texture=NoiseTexture(shades, cell=2.0, veins=0.0, offset=rng.uniform(0, 500, 3)))
    if rng.random() < 0.3:
        factor = rng.uniform(1.6, 3.2)
        objects = [enlarged(item, factor) for item in objects if _leaves_room(item, factor)]
    exposure = scene.exposure * float(rng.uniform(0.8, 1.1))
    return replace(scene, items=(table, *objects), exposure=exposure)


def _folding_screen(rng: np.random.Generator, cameras: Cameras) -> list[Item]:
    """Two to four upright walls that fold towards the cameras and away from them, as the fronts of houses do.

    Solids on a table are convex and stand above near ground. A network trained on them alone mistakes hollows for bumps
    and mirrors the cameras.
    """
    ahead = cameras.centers[:, :2].mean(0).numpy()
    toward = np.arctan2(ahead[1], ahead[0])
    count = int(rng.integers(2, 5))
    lengths = rng.uniform(70, 220, count)
    lengths *= min(1.0, _MAX_SCREEN_WIDTH / lengths.sum())
    slants = np.radians(rng.uniform(15, 60, count)) * (-1) ** (np.arange(count) + rng.integers(2))
    angles = toward + np.pi / 2 + slants
    walls = lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    middles = np.cumsum(walls, axis=0) - walls / 2
    middles += rng.uniform(-80, 60) * ahead / np.linalg.norm(ahead) - walls.sum(0) / 2
    half_height, thickness = rng.uniform(40, 200), rng.uniform(4, 15)
    return [
        Item(
            shape=Box(np.array([length / 2, thickness, half_height])),
            texture=random_texture(rng, size=90.0, mapping="box"),
            rotation=rotation_z(angle),
            center=np.array([*middle, min(half_height, AIM_HEIGHT)]),
            specular=0.0,
            shininess=1.0,
            casts_shadow=True,
        )
        for length, angle, middle in zip(lengths, angles, middles, strict=True)
    ]


def _leaves_room(item: Item, factor: float) -> bool:
    """Whether the enlarged item stays clear of the cameras."""
    reach = np.hypot(*item.center[:2]) + item.shape.bounding_radius
    return bool(factor * reach < _ROOM and factor * item.top < _ROOM)


def _background(rng: np.random.Generator, height: int, width: int) -> Float[Tensor, "3 height width"]:
    """What is behind everything: mostly black, sometimes a soft gradient."""
    if rng.random() < 0.6:
        return torch.zeros(3, height, width)
    top, bottom = torch.from_numpy(rng.uniform(0, 1, (2, 3, 1, 1))).float()
    return top + (bottom - top) * torch.linspace(0, 1, height)[:, None].expand(3, height, width)


def _neighboring_cameras(rng: np.random.Generator, count: int, height: int, width: int) -> Cameras:
    kind = rng.random()
    if kind < 0.6:
        w2c = _from_dtu_rig(rng, count)
    elif kind < 0.75:
        w2c = _around(rng, count, spacing=rng.uniform(5, 9), radius=rng.uniform(580, 680), elevation=(30.0, 76.0))
    else:
        w2c = _around(rng, count, spacing=rng.uniform(6, 22), radius=rng.uniform(440, 720), elevation=(8.0, 80.0))
    return _camera_batch(rng, w2c, height, width)


def _from_dtu_rig(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Neighbors in DTU's rig, which as a whole is a little off its nominal place."""
    rig = dtu_rig(512, 640)
    shift = np.eye(4)
    shift[:3, :3] = rotation_z(np.radians(rng.normal(0, 6)))
    shift[:3, 3] = rng.normal(0, 6, 3)
    w2c = [rig.w2c[view].double().numpy() @ shift for view in _neighbors(rig, count, rng)]
    zoom = rng.normal(1, 0.02)
    for one in w2c:
        one[:3, 3] *= zoom
    return w2c


def _around(
    rng: np.random.Generator, count: int, *, spacing: float, radius: float, elevation: tuple[float, float]
) -> list[np.ndarray]:
    """Cameras scattered about a direction, neighbors about `spacing` degrees apart, all looking at the table."""
    middle_elevation, middle_azimuth = rng.uniform(*elevation), rng.uniform(-180, 180)
    aim_wobble, distance_wobble, roll = rng.uniform(0, 10), rng.uniform(0, 0.05), rng.uniform(0, 5)
    spread = spacing * max(1.0, count**0.5)
    w2c = []
    for _ in range(count):
        up = float(np.clip(middle_elevation + rng.normal(0, 0.6) * spread, 4, 84))
        around = middle_azimuth + rng.normal(0, 0.6) * spread / max(0.3, np.cos(np.radians(up)))
        aim = np.array([0.0, 0.0, AIM_HEIGHT * rng.uniform(0.5, 1)]) + rng.normal(0, aim_wobble, 3)
        center = aim + on_sphere(radius * (1 + rng.normal(0, distance_wobble)), up, around)
        w2c.append(look_at(center, aim, rng.normal(0, roll)))
    return w2c


def _camera_batch(rng: np.random.Generator, w2c: list[np.ndarray], height: int, width: int) -> Cameras:
    """DTU's lens on a sensor of the given shape, in half of the groups a somewhat different one."""
    focal_x, focal_y, center_x, center_y = DTU_INTRINSICS
    zoom = 1.0 if rng.random() < 0.5 else rng.uniform(0.75, 1.15)
    scale = max(width / 160, height / 128)
    x, y = (center_x + 0.125) / 160 * width, (center_y + 0.125) / 128 * height
    if rng.random() < 0.5:
        x, y = width / 2, height / 2
    intrinsics = np.array([[zoom * scale * focal_x, 0, x], [0, zoom * scale * focal_y, y], [0, 0, 1.0]])
    return Cameras(
        w2c=torch.from_numpy(np.stack(w2c)),
        intrinsics=torch.from_numpy(intrinsics).expand(len(w2c), 3, 3).clone(),
        height=height,
        width=width,
    )
