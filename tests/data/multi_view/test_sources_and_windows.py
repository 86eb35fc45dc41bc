"""Groups of frames: which ones, exact cameras after cutting and resizing, augmentation, mixing of sources."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.image_io import write_image
from data.lazy import LazyMapping
from data.multi_view.augmentation import augmented, hue_rotation
from data.multi_view.protocols import PROTOCOLS
from data.multi_view.sources import (
    UNIFORM,
    ComposedFrames,
    FixedGroups,
    FrameGroup,
    FrameSampling,
    GroupKey,
    SceneFrames,
    choose_frames,
    evaluation_groups,
    training_part,
)
from data.multi_view.windows import Window, ZoomRange, choose_window, load_frames, turned
from data.problems import Problems
from data.readers.dtu import read_dtu
from data.scene import Frame, PosedScene
from data.view_selection.neighbors import complete_neighbors
from geometry import Cameras, FrameBatch, InputError, Traits, Views, pixel_centers
from tests.data.novel_view.test_sampler_and_dataset import line_scene
from tests.scenes import rigid_motion

KEY = GroupKey(source=0, item=0, num_frames=4, height=16, width=32, seed=5)


@pytest.fixture(scope="module")
def dtu_scene(small_dtu: Path) -> PosedScene:
    return read_dtu(small_dtu, split="all", scans=("scan2",))[0]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def video(num_frames: int = 100) -> PosedScene:
    scene = line_scene()
    frames = {view: replace(scene.frames[0], view_id=view) for view in range(num_frames)}
    return replace(scene, frames=frames, neighbors=dict.fromkeys(frames, ()), is_video=True)


def test_frames_come_from_the_best_neighbors_and_never_twice() -> None:
    scene = line_scene()
    anchors, groups = set(), set()
    for seed in range(100):
        anchor, *others = choose_frames(scene, 3, FrameSampling(1.5), generator(seed))
        assert set(others) <= set(scene.neighbors[anchor][:4])
        assert len({anchor, *others}) == 3
        anchors.add(anchor)
        groups.add((anchor, *others))
    assert anchors == set(range(10))
    assert len(groups) > 60


def test_uniform_frames_come_from_the_whole_sequence_and_never_twice() -> None:
    """As upstream draws Co3D, but for repetition; near frames of the same scene are not wider apart than the ratio."""
    scene = line_scene()
    counts = torch.zeros(10)
    for seed in range(200):
        chosen = choose_frames(scene, 3, UNIFORM, generator(seed))
        assert len(set(chosen)) == 3
        counts[list(chosen)] += 1
    assert counts.min() > 35  # 60 each, the standard deviation is 6.5
    assert set(choose_frames(scene, 15, UNIFORM, generator())) == set(range(10))
    far = video()
    spread = {abs(a - b) for a, b in (choose_frames(far, 2, UNIFORM, generator(seed)) for seed in range(100))}
    assert max(spread) > 60


def test_sampling_is_parsed_or_refused_by_name() -> None:
    assert FrameSampling.parse("uniform") == UNIFORM
    assert FrameSampling.parse("nearby:2.5") == FrameSampling(2.5)
    for text in ("nearby", "nearby:", "nearby:0.5", "nearby:nan", "nearby:inf", "uniform:2", "far:3", ""):
        with pytest.raises(InputError, match=r"^--frame_sampling: expected uniform, nearby:<ratio>"):
            FrameSampling.parse(text)


@pytest.fixture
def partly_broken(dtu_scene: PosedScene, tmp_path: Path) -> tuple[PosedScene, Path, Path]:
    """A scene with one image and another depth map that cannot be decoded."""
    image, depth = tmp_path / "broken.png", tmp_path / "broken.pfm"
    image.write_bytes(b"half a picture")
    depth.write_bytes(b"half a map")
    frames = dict(dtu_scene.frames)
    first, second = list(frames)[:2]
    frames[first] = replace(frames[first], image_path=image)
    frames[second] = replace(frames[second], depth_path=depth)
    return replace(dtu_scene, frames=frames), image, depth


def test_a_broken_image_is_replaced_and_a_broken_map_unknown(
    partly_broken: tuple[PosedScene, Path, Path], capsys: pytest.CaptureFixture
) -> None:
    """A pure function of the key; said once; the other groups are those of a sound scene."""
    scene, image, depth = partly_broken
    first, second = list(scene.frames)[:2]
    source = SceneFrames("dtu", [scene], sampling=UNIFORM)
    seen = set()
    for seed in range(12):
        key = replace(KEY, seed=seed)
        one, again = source.sample_many([key, key])
        assert torch.equal(one.views.images, again.views.images)
        ids = one.views.ids.tolist()
        assert first not in ids
        assert len(set(ids)) == 4
        seen |= set(ids)
        if second in ids:
            assert (one.views.depth[ids.index(second)] == 0).all()
    assert second in seen
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.split(":")[0] for line in lines) == sorted([str(image), str(depth)])
    assert all(line.endswith(": passed over") for line in lines)
    replaced = source.unreadable.count
    assert 2 <= replaced < 24  # twice the number of keys that would have taken the image
    source.unreadable.summarize()
    assert capsys.readouterr().err == f"dtu: groups without frames that cannot be read: {replaced}\n"


def test_another_scene_takes_the_place_of_one_without_a_readable_image(
    partly_broken: tuple[PosedScene, Path, Path], dtu_scene: PosedScene
) -> None:
    """A whole folder that a disk has lost does not end a run; where nothing is left, one line does."""
    scene, _, _ = partly_broken
    first = next(iter(scene.frames))
    broken = replace(scene, name="broken", frames={first: scene.frames[first]}, neighbors={first: ()})
    source = SceneFrames("dtu", [broken, replace(dtu_scene, name="sound")])
    keys = [replace(KEY, item=item) for item in (0, 1)]
    one, other = source.sample_many(keys)
    assert one.names == other.names == ("dtu/sound",)
    assert torch.equal(one.views.images, other.views.images)
    with pytest.raises(InputError, match=r"^dtu: expected scenes with images that can be read, got none in broken$"):
        SceneFrames("dtu", [broken]).sample_many([KEY])


def test_a_validation_survives_a_broken_image_and_an_evaluation_stops(
    partly_broken: tuple[PosedScene, Path, Path],
) -> None:
    scene, _, _ = partly_broken
    first, *others = list(scene.frames)
    group = FrameGroup(scene, (others[3], first, others[4]))
    key = replace(KEY, num_frames=3)
    (batch,) = FixedGroups("dtu", [group], survives=True).sample_many([key])
    spare = next(view for view in scene.neighbors[others[3]] if view not in group.view_ids)
    assert batch.views.ids.tolist() == [others[3], others[4], spare]
    with pytest.raises(InputError, match=r"broken\.png"):
        FixedGroups("dtu", [group]).sample_many([key])


def test_blur_is_off_unless_asked_for() -> None:
    """The other random numbers are the same."""
    images = torch.rand(1, 3, 24, 24, generator=generator())
    pairs = [
        (augmented(images, generator(seed)), augmented(images, generator(seed), is_blurred=True)) for seed in range(100)
    ]
    differ = [not torch.equal(plain, blurred) for plain, blurred in pairs]
    assert 0 < sum(differ) < 15


def test_frames_of_a_video_are_near_in_time() -> None:
    scene = video()
    counts = torch.zeros(100)
    for seed in range(400):
        anchor, *others = choose_frames(scene, 5, FrameSampling(2.0), generator(seed))
        assert all(0 < abs(other - anchor) <= 10 for other in others)
        assert len(set(others)) == 4
        counts[anchor] += 1
    assert counts.reshape(4, 25).sum(1).min() > 70  # uniform: 100 each, 3 standard deviations are 26


def test_frames_repeat_only_where_there_are_too_few() -> None:
    chosen = choose_frames(line_scene(), 15, FrameSampling(1.0), generator())
    assert len(chosen) == 15
    assert set(chosen) == set(range(10))


def test_the_first_frame_has_depth_where_any_has(dtu_scene: PosedScene) -> None:
    frames = {view: replace(f, depth_path=f.depth_path if view == 25 else None) for view, f in dtu_scene.frames.items()}
    scene = replace(dtu_scene, frames=frames)
    assert {choose_frames(scene, 2, FrameSampling(2.0), generator(seed))[0] for seed in range(5)} == {25}


@pytest.mark.parametrize("size", [(40, 80), (64, 80), (24, 80), (100, 200)])
def test_random_windows_are_inside_centered_and_of_the_right_proportions(size: tuple[int, int]) -> None:
    camera = Cameras(torch.eye(4), torch.tensor([[300.0, 0, 162], [0, 300, 118], [0, 0, 1]]), 240, 320)
    areas = []
    for seed in range(50):
        window = choose_window(camera, *size, ZoomRange.training(), generator(seed))
        assert 0 <= window.top <= window.top + window.height <= 240
        assert 0 <= window.left <= window.left + window.width <= 320
        assert abs(window.top + window.height / 2 - 118) <= 1
        assert abs(window.left + window.width / 2 - 162) <= 1
        assert window.width / window.height == pytest.approx(size[1] / size[0], rel=0.02)
        areas.append(window.height * window.width)
    assert max(areas) / min(areas) > 1.3


def test_evaluation_leaves_out_only_what_the_aspect_demands() -> None:
    camera = Cameras(torch.eye(4), torch.tensor([[300.0, 0, 150], [0, 300, 140], [0, 0, 1]]), 240, 320)
    none = ZoomRange.none()
    assert choose_window(camera, 24, 32, none, None) == Window(0, 0, 240, 320)
    assert choose_window(camera, 20, 40, none, None) == Window(60, 0, 160, 320)  # rows around the principal point
    assert choose_window(camera, 30, 30, none, None) == Window(0, 30, 240, 240)
    off_center = replace(camera, intrinsics=torch.tensor([[300.0, 0, 150], [0, 300, 200], [0, 0, 1]]))
    assert choose_window(off_center, 20, 40, none, None) == Window(80, 0, 160, 320)  # as near as the image allows


@pytest.mark.parametrize("quarter_turns", [1, -1])
def test_turned_cameras_keep_points_on_their_pixels(quarter_turns: int) -> None:
    intrinsics = torch.tensor([[50.0, 0.3, 17], [0, 52, 11], [0, 0, 1]])
    camera = Cameras(rigid_motion(1), intrinsics, 24, 32)
    image = torch.arange(24 * 32).reshape(24, 32)
    points = camera.unproject(pixel_centers(24, 32, torch.zeros(())), torch.full((24 * 32,), 2.0))
    after = turned(camera, quarter_turns)
    projection = after.project(points)
    columns, rows = projection.pixels.floor().long().unbind(-1)
    assert (after.height, after.width) == (32, 24)
    turned_image = torch.from_numpy(np.rot90(image.numpy(), quarter_turns).copy())
    assert torch.equal(turned_image[rows, columns], image.flatten())
    torch.testing.assert_close(projection.pixels % 1, torch.full_like(projection.pixels, 0.5), atol=1e-3, rtol=0)
    torch.testing.assert_close(projection.depth, torch.full_like(projection.depth, 2.0))


def reprojected(views: Views, scene: PosedScene) -> torch.Tensor:
    """Pixels of the cut and resized frame, by way of world points, in the original image -> relative to the window."""
    height, width = views.cameras.height, views.cameras.width
    pixels = pixel_centers(height, width, views.images).expand(len(views.images), -1, -1)
    points = views.cameras.unproject(pixels, views.depth.flatten(1))
    originals = Cameras.stack(
        [
            Cameras(frame.w2c, frame.intrinsics, frame.height, frame.width)
            for frame in (scene.frames[view] for view in views.ids.tolist())
        ]
    )
    return originals.project(points).pixels


def test_every_pixel_shows_what_its_camera_says(dtu_scene: PosedScene) -> None:
    """The image value and the depth at a pixel are those of the original where its world point falls."""
    scenes = SceneFrames("dtu", [dtu_scene])
    for seed in range(4):
        (group,) = scenes.sample_many([replace(KEY, height=24, width=32, seed=seed)])
        views = group.views
        for index, view in enumerate(views.ids.tolist()):
            known = (views.depth[index] > 0).flatten()
            columns, rows = reprojected(views, dtu_scene)[index, known].unbind(-1)
            # the depth of the original within a pixel of there (nearest lookup) is the very value
            depth = torch.from_numpy(dtu_scene.depth(view).copy())
            near = [
                depth[(rows + dy).long().clamp(0, 31), (columns + dx).long().clamp(0, 39)]
                for dy in (-0.5, 0, 0.5)
                for dx in (-0.5, 0, 0.5)
            ]
            assert (torch.stack(near) == views.depth[index].flatten()[known]).any(0).all()


def test_cameras_after_cutting_agree_with_the_originals(dtu_scene: PosedScene) -> None:
    """A world point stays on its place of the picture, so reprojection between frames is unchanged: below 0.01 px."""
    for zoom, seed in ((ZoomRange.training(), 3), (ZoomRange.none(), 0)):
        view_ids = dtu_scene.train_views[:3]
        views = load_frames(dtu_scene, view_ids, 16, 32, zoom=zoom, generator=generator(seed))
        seen = reprojected(views, dtu_scene).unflatten(1, (16, 32))
        for index, view in enumerate(view_ids):
            known = views.depth[index] > 0
            frame = dtu_scene.frames[view]
            camera = Cameras(frame.w2c, frame.intrinsics, frame.height, frame.width)
            again = generator(seed)
            for _ in range(index + 1):
                window = choose_window(camera, 16, 32, zoom, again)
            expected = pixel_centers(16, 32, views.images).reshape(16, 32, 2)
            expected = expected * torch.tensor([window.width / 32, window.height / 16])
            expected = expected + torch.tensor([window.left, window.top])
            assert (seen[index] - expected)[known].abs().max() < 0.01


def test_groups_are_functions_of_their_key(dtu_scene: PosedScene) -> None:
    frames = ComposedFrames([SceneFrames("dtu", [dtu_scene])], is_augmented=True)
    one, again, other = frames[KEY], frames[KEY], frames[replace(KEY, seed=6)]
    assert one.views.images.shape == (4, 3, 16, 32)
    assert one.views.depth.shape == (4, 16, 32)
    assert one.views.mask is None
    assert one.names == ("dtu/scan2/light3",)
    assert int(one.seeds) == 5
    assert torch.equal(one.views.images, again.views.images)
    assert not torch.equal(one.views.images, other.views.images)
    assert (one.views.near < one.views.far).all()
    plain = ComposedFrames([SceneFrames("dtu", [dtu_scene])], is_augmented=False)[KEY]
    assert torch.equal(plain.views.depth, one.views.depth)
    assert not torch.equal(plain.views.images, one.views.images)


class Constant:
    """A source that notes what it is asked in one call."""

    def __init__(self, name: str, value: float) -> None:
        self.name = name
        self.value = value
        self.calls: list[int] = []

    def __len__(self) -> int:
        return 10

    def sample_many(self, keys: list[GroupKey]) -> list[FrameBatch]:
        self.calls.append(len(keys))
        return [self._group(key) for key in keys]

    def _group(self, key: GroupKey) -> FrameBatch:
        shape = (key.num_frames, key.height, key.width)
        camera = Cameras(torch.eye(4), torch.eye(3), key.height, key.width)
        views = Views(
            images=torch.full((key.num_frames, 3, key.height, key.width), self.value),
            cameras=Cameras.stack([camera] * key.num_frames),
            near=torch.ones(key.num_frames),
            far=torch.ones(key.num_frames),
            ids=torch.full((key.num_frames,), key.item),
            depth=torch.ones(shape),
            no_surface=torch.zeros(shape, dtype=torch.bool),
        )
        return FrameBatch(views, (f"{self.name}/{key.item}",), torch.tensor(key.seed), (Traits(),))


def test_sources_are_asked_once_and_batches_mix_them(dtu_scene: PosedScene) -> None:
    sources = [Constant("a", 0.25), SceneFrames("dtu", [dtu_scene]), Constant("b", 0.75)]
    frames = ComposedFrames(sources, is_augmented=False)
    keys = [replace(KEY, source=source, seed=seed) for seed, source in enumerate((2, 0, 1, 2, 0, 2))]
    batch = FrameBatch.stack(frames.__getitems__(keys))
    assert batch.names == ("b/0", "a/0", "dtu/scan2/light3", "b/0", "a/0", "b/0")
    assert batch.seeds.tolist() == [0, 1, 2, 3, 4, 5]
    assert batch.views.images[[0, 1, 3], 0, 0, 0, 0].tolist() == [0.75, 0.25, 0.75]
    assert batch.views.cameras.w2c.shape == (6, 4, 4, 4)
    assert (sources[0].calls, sources[2].calls) == ([2], [3])
    assert len(frames) == 21


def test_evaluation_groups_are_every_view_with_its_best_neighbors(dtu_scene: PosedScene) -> None:
    groups = evaluation_groups([dtu_scene], 3)
    assert len(groups) == 20
    assert {group.view_ids[0] for group in groups} == set(dtu_scene.frames)
    for group in groups:
        assert group.view_ids[1:] == dtu_scene.neighbors[group.view_ids[0]][:2]
    held_out = evaluation_groups([dtu_scene], 3, trained_scans={"scan2"})
    assert tuple(group.view_ids[0] for group in held_out) == dtu_scene.held_out_views
    assert len(evaluation_groups([dtu_scene], 3, max_groups=7)) == 7
    with pytest.raises(InputError, match=r"scan2/light3: expected at least 21 views to evaluate together, got 20$"):
        evaluation_groups([dtu_scene], 21)
    few = replace(dtu_scene, name="few", frames=dict(list(dtu_scene.frames.items())[:2]))
    for protocol, count in (("neighbours", 20), ("co3d-random10", 1)):
        problems = Problems()
        kept = PROTOCOLS[protocol].groups([few, dtu_scene], 3, None, (), problems.add)
        assert [group.scene.name for group in kept] == [dtu_scene.name] * count
        (line,) = problems.lines
        assert line.startswith("scene few: expected at least")
    source = FixedGroups("dtu", groups)
    (group,) = source.sample_many([replace(KEY, item=3, num_frames=3, height=32, width=40)])
    assert tuple(group.views.ids.tolist()) == groups[3].view_ids
    untouched = dtu_scene.views(groups[3].view_ids)
    assert torch.equal(group.views.images, untouched.images)
    assert torch.equal(group.views.depth, untouched.depth)
    assert torch.equal(group.views.cameras.intrinsics, untouched.cameras.intrinsics)
    with pytest.raises(InputError, match="expected a key for 3 frames, got 4"):
        source.sample_many([KEY])


def test_scans_that_are_evaluated_train_without_their_held_out_views() -> None:
    kept, reduced = training_part([line_scene("scan1"), line_scene("scan2")], {"scan2"})
    assert set(kept.frames) == set(range(10))
    assert set(reduced.frames) == set(reduced.neighbors) == set(range(10)) - {3, 7}
    assert all(not {3, 7} & set(others) for others in reduced.neighbors.values())


def test_restricting_a_scene_opens_nothing() -> None:
    """Frames of Co3D are made when they are looked at: each one opens a file."""
    scene, made = line_scene("scan1"), []
    lazy = LazyMapping(list(scene.frames), lambda view: made.append(view) or scene.frames[view])
    (reduced,) = training_part([replace(scene, frames=lazy)], {"scan1"})
    assert set(made) <= {0}  # the type checker of the tests looks at the first one
    assert reduced.frames[4] is scene.frames[4]
    assert made[-1] == 4
    (plain,) = training_part([scene], {"scan1"})
    assert set(pickle.loads(pickle.dumps(plain)).frames) == set(plain.frames)  # loading processes get it


def test_portrait_images_turn_all_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = {}
    for view in range(3):
        write_image(tmp_path / f"{view}.png", rng.integers(0, 255, (80, 40, 3), dtype=np.uint8))
        intrinsics = torch.tensor([[60.0, 0, 20], [0, 60, 40], [0, 0, 1]])
        frames[view] = Frame(view, tmp_path / f"{view}.png", torch.eye(4), intrinsics, 80, 40, 1.0, 2.0)
    neighbors = complete_neighbors({view: frame.center for view, frame in frames.items()})
    scene = PosedScene("s", "s", frames, neighbors, (0, 1, 2), ())
    (upright,) = SceneFrames("portraits", [scene]).sample_many([replace(KEY, num_frames=3)])  # upstream's default
    assert torch.equal(upright.views.cameras.w2c, torch.eye(4).expand(3, 4, 4))
    source = SceneFrames("portraits", [scene], zoom=ZoomRange.training(turns_portraits=True))
    turns = set()
    for seed in range(12):
        (group,) = source.sample_many([replace(KEY, num_frames=3, seed=seed)])
        assert group.views.images.shape == (3, 3, 16, 32)
        assert (group.views.depth == 0).all()
        rotations = {tuple(w2c[:2, :2].flatten().tolist()) for w2c in group.views.cameras.w2c}
        assert len(rotations) == 1
        turns |= rotations
    assert turns == {(1, 0, 0, 1), (0, 1, -1, 0), (0, -1, 1, 0)}


def test_augmentation_is_deterministic_in_range_and_often_shared() -> None:
    images = torch.rand(2, 3, 8, 10, generator=generator()).mul(0.4).add(0.3)
    images[1] = images[0]
    num_shared, changes = 0, []
    for seed in range(200):
        one = augmented(images, generator(seed))
        assert torch.equal(one, augmented(images, generator(seed)))
        assert 0 <= one.min() <= one.max() <= 1
        num_shared += torch.equal(one[0], one[1])
        changes.append((one - images).abs().mean().item())
    assert 120 < num_shared < 165  # 0.7 and a few coincidences; 3 standard deviations are 20
    assert sum(change > 0.01 for change in changes) > 180
    assert sum(change < 1e-6 for change in changes) > 3


def test_augmentation_of_gray_is_gray_and_hue_keeps_luma() -> None:
    gray = torch.full((1, 3, 4, 4), 0.5)
    for seed in range(20):
        one = augmented(gray, generator(seed))
        torch.testing.assert_close(one[:, 0], one[:, 1], atol=1e-4, rtol=0)
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(luma @ hue_rotation(0.08), luma, atol=1e-9)
    np.testing.assert_allclose(hue_rotation(-0.08) @ hue_rotation(0.08), np.eye(3), atol=1e-9)
    np.testing.assert_allclose(hue_rotation(1.0), np.eye(3), atol=1e-9)
