"""A WAI scene on disk: its frames with cameras and modalities, loaded or written one at a time."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation, Slerp

from data.wai.formats import load, store
from data.wai.scene_meta import (
    META_NAME,
    PINHOLE,
    FrameMeta,
    Modality,
    SceneMeta,
    WaiCamera,
    find_modality,
    path_below,
    read_scene_meta,
    with_modality,
    write_scene_meta,
)
from geometry import InputError, require

_SNAP_SECONDS = 1e-4
"""A time so near that of a frame is the frame's."""
_MAX_GAP_SECONDS = 2.0
"""Poses are not interpolated between frames farther apart."""


@dataclass(frozen=True)
class LoadedFrame:
    """A frame with the modalities that were asked for and that it has."""

    name: str
    index: int
    """Position in the file."""
    c2w: Float[np.ndarray, "4 4"]
    camera: WaiCamera
    modalities: Mapping[str, Any]
    """By the name they were asked for; for a regular expression the name that it matched."""
    paths: Mapping[str, Path]
    is_interpolated: bool = False

    def record(self) -> dict[str, Any]:
        """By the names of the reference's loader, single precision."""
        is_pinhole = self.camera.model == PINHOLE
        cameras = {"intrinsics": self.camera.intrinsics.astype(np.float32)} if is_pinhole else self.camera.coefficients
        files = {f"{name}_fname": str(path) for name, path in self.paths.items()}
        return {
            "extrinsics": self.c2w.astype(np.float32),
            **cameras,
            "camera_model": self.camera.model,
            "w": self.camera.width,
            "h": self.camera.height,
            "frame_name": self.name,
            "frame_idx": self.index,
            "_is_interpolated": self.is_interpolated,
            **self.modalities,
            **files,
        }


@dataclass(frozen=True)
class WaiScene:
    """A folder and what its `scene_meta.json` says."""

    root: Path
    meta: SceneMeta

    @classmethod
    def read(cls, root: Path, name: str = META_NAME) -> "WaiScene":
        """Raises InputError for a missing or wrong file."""
        return cls(root, read_scene_meta(root / name))

    def path_of(self, frame: FrameMeta, modality: Modality) -> Path | None:
        """File of a frame's modality; None: the frame has none."""
        relative = frame.values.get(modality.key)
        return None if relative is None else path_below(self.root, relative, f"{self.meta.where}, frame {frame.name}")

    def load_frame(self, frame: str | int | float, requests: Sequence[str] = ()) -> LoadedFrame:
        """By name, by position, or (a float) by the time in seconds that names frames of a video.

        Between two frames pose and intrinsics are interpolated (rotations on the shortest arc).

        Raises:
            InputError: for an unknown frame or modality, or a time that is too far from the frames.
            UnreadableFileError: for a missing or damaged file.
        """
        if isinstance(frame, float):
            return self._at_time(frame, requests)
        index = self.meta.frame_index.get(frame) if isinstance(frame, str) else frame
        count = len(self.meta.frames)
        require(
            index is not None and 0 <= index < count, f"{self.meta.where}: expected one of {count} frames, got {frame}"
        )
        one = self.meta.frames[index]
        found, paths = {}, {}
        for request in requests:
            name, modality = find_modality(self.meta.frame_modalities, request, self.meta.where)
            path = self.path_of(one, modality)
            if path is not None:
                found[name], paths[name] = load(path, modality.kind), path
        return LoadedFrame(one.name, index, one.c2w, self.meta.camera(one), found, paths)

    def load_scene_modality(self, request: str) -> Any:
        """A modality of the whole scene, such as `pairwise_covisibility`; from where the meta says, nowhere else.

        Raises:
            InputError: for an unknown one, or a missing or damaged file.
        """
        name, modality = find_modality(self.meta.scene_modalities, request, self.meta.where)
        return load(path_below(self.root, modality.key, f"{self.meta.where}, {name}"), modality.kind)

    def with_scene_file(self, name: str, path: Path, kind: str, **values: Any) -> "WaiScene":
        """The scene with one more modality, not yet written (`write`); `values`: other keys of the file."""
        entry = Modality("scene_key", path.relative_to(self.root).as_posix(), kind)
        tree = with_modality(self.meta.scene_modalities, name, entry)
        return replace(self, meta=replace(self.meta, scene_modalities=tree, values={**self.meta.values, **values}))

    def with_frame_files(self, name: str, key: str, kind: str, paths: Mapping[str, Path]) -> "WaiScene":
        """Likewise for a modality of frames, whose paths by frame name stand under `key`."""
        tree = with_modality(self.meta.frame_modalities, name, Modality("frame_key", key, kind))
        relative = {frame: path.relative_to(self.root).as_posix() for frame, path in paths.items()}
        frames = tuple(
            replace(one, values={**one.values, key: relative[one.name]}) if one.name in relative else one
            for one in self.meta.frames
        )
        return replace(self, meta=replace(self.meta, frame_modalities=tree, frames=frames))

    def store(self, relative: str, value: Any, kind: str) -> Path:
        """Write a file below the scene's folder; returns its path."""
        return store(path_below(self.root, relative, self.meta.where), value, kind)

    def write(self, name: str = META_NAME) -> "WaiScene":
        """Write the meta file; the one before is kept as a backup."""
        return replace(self, meta=write_scene_meta(self.root / name, self.meta))

    def _at_time(self, seconds: float, requests: Sequence[str]) -> LoadedFrame:
        try:
            times = sorted((float(frame.name), index) for index, frame in enumerate(self.meta.frames))
        except ValueError:
            raise InputError(f"{self.meta.where}: expected frames named by seconds to find {seconds}") from None
        at = bisect.bisect_left(times, (seconds, -1))
        near = [times[one] for one in (at - 1, at) if 0 <= one < len(times)]
        time, index = min(near, key=lambda one: abs(one[0] - seconds))
        if abs(time - seconds) <= _SNAP_SECONDS:
            return self.load_frame(index, requests)
        inside = len(near) == 2
        gap = near[1][0] - near[0][0] if inside else abs(time - seconds)
        require(
            inside and gap <= _MAX_GAP_SECONDS,
            f"{self.meta.where}: expected frames within {_MAX_GAP_SECONDS:g} s around {seconds:g} s, got "
            f"{f'a gap of {gap:g} s' if inside else f'none on one side, the next {gap:g} s away'}",
        )
        require(
            not requests,
            f"{self.meta.where}: expected no modality ({', '.join(requests)}) between two frames, at {seconds:g} s",
        )
        before, after = (self.load_frame(one[1]) for one in near)
        share = (seconds - near[0][0]) / gap
        c2w = before.c2w + share * (after.c2w - before.c2w)
        turns = Rotation.from_matrix(np.stack([before.c2w[:3, :3], after.c2w[:3, :3]]))
        c2w[:3, :3] = Slerp([0, 1], turns)(share).as_matrix()
        mixed = {
            key: one + share * (after.camera.coefficients.get(key, one) - one)
            for key, one in before.camera.coefficients.items()
        }
        camera = replace(before.camera, coefficients=mixed)
        return LoadedFrame(str(seconds), near[0][1], c2w, camera, {}, {}, is_interpolated=True)
