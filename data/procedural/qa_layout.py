"""Rooms to ask about, as files: pictures, geometry, and records of questions, captions and actions for each room."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.image_io import write_image
from data.procedural.layout_parts import GeneratorSettings, write_text
from data.procedural.qa_questions import RoomQuestion, room_actions, room_captions, room_questions
from data.procedural.qa_rooms import QARoom, draw_room, intrinsics, render_room, room_depth
from data.scene_qa.geometry import depth_histograms
from data.scene_qa.records import action_text, geometry_json, write_records
from data.scene_qa.types import ViewGeometry

GEOMETRY_FILE = "geometry.json"


class RoomsQALayout:
    """`{room}/view{k}.png, geometry.json, questions.jsonl, captions.jsonl, actions.jsonl`; meters."""

    def __init__(self, root: Path, settings: GeneratorSettings) -> None:
        self._root, self._settings = root, settings
        self.view_ids = tuple(range(settings.views))

    def scan(self, index: int) -> str:
        """Name of room `index`."""
        return f"room{self._settings.first_scan + index:05d}"

    def write_view(self, index: int, view: int) -> tuple[float, float]:
        """Render and write one view; least and greatest depth in it."""
        room, size = self._room(index), self._settings.width
        write_image(self._root / self.scan(index) / image_name(view), render_room(room, size, (view,))[0])
        depth = room_depth(room, size)[view]
        return float(depth.min()), float(depth.max())

    def finish_scene(self, index: int, depth_range: tuple[float, float]) -> None:
        """Geometry and records."""
        room, scan, seed = self._room(index), self.scan(index), self._settings.seed
        folder = self._root / scan
        write_text(folder / GEOMETRY_FILE, geometry_text(room_geometry(room, self._settings.width)))
        kinds = {
            "questions": room_questions(room, seed, index),
            "captions": room_captions(room),
            "actions": room_actions(room),
        }
        for kind, questions in kinds.items():
            rows = [_row(one, scan, f"{scan}-{kind}-{number}", room) for number, one in enumerate(questions)]
            write_records(folder / f"{kind}.jsonl", rows)

    def _room(self, index: int) -> QARoom:
        return draw_room(self._settings.seed, index, self._settings.views)


def image_name(view: int) -> str:
    """Of a view, which questions number from 1."""
    return f"view{view + 1}.png"


def room_geometry(room: QARoom, size: int) -> ViewGeometry:
    """Cameras and depths of all views."""
    c2w = torch.from_numpy(room.c2w)
    histogram, depth_range = depth_histograms(room_depth(room, size))
    views = room.num_views
    return ViewGeometry(
        rotations=c2w[:, :3, :3].float(),
        translations=c2w[:, :3, 3].float(),
        intrinsics=torch.from_numpy(intrinsics(size)).float().expand(views, 3, 3),
        image_size=torch.full((views, 2), float(size)),
        depth_histogram=torch.from_numpy(histogram.astype(np.float32)),
        depth_range=torch.from_numpy(depth_range.astype(np.float32)),
    )


def geometry_text(geometry: ViewGeometry) -> str:
    """The file of a room's geometry."""
    return action_text(geometry_json(geometry)) + "\n"


def _row(one: RoomQuestion, scan: str, name: str, room: QARoom) -> dict[str, Any]:
    answer = {"answer": one.answer} if one.action is None else {"action_json": one.action}
    return {
        "images": [image_name(view) for view in range(room.num_views)],
        "question": one.question,
        **answer,
        "geom_token": GEOMETRY_FILE,
        "task": one.task,
        "scene_id": scan,
        "question_id": name,
        "evidence": list(one.views),
    }
