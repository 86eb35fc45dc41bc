"""Which photographs of a scene stand for it in a record, with their geometry: from any posed data set."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data.problems import Report
from data.readers.registry import READERS
from data.scene import PosedScene
from data.scene_qa.geometry import scene_geometry
from data.scene_qa.types import ViewGeometry
from data.seeds import evenly_spread
from geometry import InputError, require

METERS_PER_UNIT = {"dtu": 1e-3, "scannet": 1.0, "vkitti": 1.0, "blendedmvs": 1.0}
"""Of data sets whose unit is known; elsewhere a unit counts as a meter."""


class SceneViews(NamedTuple):
    """What records of a scene have in common."""

    images: tuple[Path, ...]
    geometry: ViewGeometry


FindViews = Callable[[str], SceneViews | None]
"""Scene -> its views; None where there is none of that name."""


class PosedViews:
    """Views of the scenes of a data set on disk; a scene is read when it is asked for, and kept."""

    def __init__(self, dataset_name: str, datadir: str, max_views: int, report: Report) -> None:
        """`max_views` photographs of a scene, evenly spread over all of them.

        Raises:
            InputError: for an unknown data set or a missing folder.
        """
        require(
            dataset_name in READERS, f"--dataset_name: expected one of {', '.join(sorted(READERS))}, got {dataset_name}"
        )
        require(Path(datadir).is_dir(), f"{datadir}: expected a folder of {dataset_name} scenes, got none")
        self._reader, self._datadir, self._report = READERS[dataset_name], Path(datadir), report
        self._max_views, self._meters = max_views, METERS_PER_UNIT.get(dataset_name, 1.0)
        self.scenes: Mapping[str, Path] = self._reader.find(self._datadir)
        """Names that there are."""
        self._found: dict[str, SceneViews | None] = {}

    def __call__(self, scene: str) -> SceneViews | None:
        """Views of a scene; None where there is none of that name, or none that can be used."""
        if scene not in self._found:
            self._found[scene] = self._read(scene) if scene in self.scenes else None
        return self._found[scene]

    def _read(self, name: str) -> SceneViews | None:
        scenes = self._reader.read(self._datadir, split="all", scans=(name,), report=self._report)
        scenes = [scene for scene in scenes if scene.is_evaluated]
        if not scenes:
            return None
        if scenes[0].read_image is not None:
            self._report(
                InputError(f"{name}: expected photographs as files, got ones that are made when they are read")
            )
            return None
        return chosen_views(scenes[0], self._max_views, self._meters)


def chosen_views(scene: PosedScene, max_views: int, meters_per_unit: float = 1.0) -> SceneViews:
    """At most so many views, evenly spread over the scene's in order."""
    views: Sequence[int] = evenly_spread(sorted(scene.frames), max_views)
    images = tuple(scene.frames[view].image_path for view in views)
    return SceneViews(images, scene_geometry(scene, views, meters_per_unit))
