"""A fine-tuned model knows its scene by where the cameras of its training views are."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.readers.registry import read_scenes
from data.scene import Frame, PosedScene
from geometry import InputError
from training.nerf.checkpoint import camera_centers, require_same_scene

PATH = Path("last.ckpt")


@pytest.fixture
def scene(small_dtu: Path) -> PosedScene:
    (scene,) = read_scenes("dtu", str(small_dtu), split="all", scans=("scan2",))
    return scene


def moved(scene: PosedScene, share: float) -> PosedScene:
    """With the first training view's camera moved by a share of the mean distance of all from their middle."""
    first = scene.train_views[0]
    centers = torch.tensor(list(camera_centers(scene).values()))
    frame = scene.frames[first]
    w2c = frame.w2c.clone()
    w2c[0, 3] += share * (centers - centers.mean(0)).norm(dim=-1).mean()
    frames: dict[int, Frame] = {**scene.frames, first: replace(frame, w2c=w2c)}
    return replace(scene, frames=frames)


def test_the_same_scene_with_other_digits_or_fewer_views(scene: PosedScene) -> None:
    trained = camera_centers(scene)
    require_same_scene(trained, scene, PATH)
    require_same_scene(trained, replace(moved(scene, 0.005), name="renamed"), PATH)
    require_same_scene(trained, scene.without(scene.train_views[:2]), PATH)
    require_same_scene({}, moved(scene, 1.0), PATH)  # a general model


def test_another_scene_of_the_same_name(scene: PosedScene) -> None:
    trained = camera_centers(scene)
    with pytest.raises(InputError, match=r"checkpoint last.ckpt: expected the scene that it was fine-tuned on, got"):
        require_same_scene(trained, moved(scene, 0.02), PATH)
    with pytest.raises(InputError, match=r"got a scene scan2/light3 whose cameras are elsewhere: .*scan2_train"):
        require_same_scene(trained, scene.without(scene.train_views), PATH)
