"""The stages from photographs to a video, by the functions of the commands that do the parts."""

import io
import json
from collections.abc import Mapping
from contextlib import redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from data.check.__main__ import check_data
from data.colmap_model import model_points, read_model
from data.depth_fusion import fused_points
from data.point_cloud import ColoredPoints, write_ply
from data.problems import counted, shortened
from data.readers.registry import read_scenes
from data.scene import PosedScene
from data.seeds import evenly_spread
from render.evaluate import evaluate
from render.export.renderings import render_views
from render.loading import load_for, precision_for, usable_device
from render.options import EvaluateOptions, RenderOptions, VideoOptions
from render.photos import given_cameras
from render.photos.cameras import count_registered, find_cameras, with_enough
from render.photos.finetuning import finetune, finetuned_checkpoint
from render.photos.options import MIN_CAMERAS, PhotosOptions
from render.photos.pictures import PanelWriter
from render.photos.records import keep_solution, photos_from, plain_photos, solution_from
from render.photos.source_state import state_of
from render.photos.stages import Stage
from render.reconstruct.scene_folder import write_scene
from render.reconstruct.sources import prepare
from render.reconstruct.types import PhotoSet, Solution
from render.stages import StageLog
from render.video import filmed_frames, write_film
from training.nerf.checkpoint import read_nerf_checkpoint

_DATASET = "colmap"
_CHECKED_PAIRS = 20
"""Pairs of views whose matches the data doctor compares with the cameras: some seconds."""
_CHUNK = 16384
"""Rays rendered at a time; halved by itself where memory does not suffice."""
_POINTS_SCALE = 0.5
"""Of the images whose depth is fused: a quarter of the time, and a point per 2x2 pixels is enough to look at."""
_POINT_VIEWS = 24
"""Most of them; chosen by hand, some 2 seconds each on a core."""
Found = Mapping[str, Any]


def worse_than_general(general: float, finetuned: float) -> list[str]:
    """A warning, where fine-tuning has lowered the mean PSNR of the held-out photographs."""
    if finetuned >= general:
        return []
    return [
        f"fine-tuning has made the held-out photographs worse ({general:.2f} dB -> {finetuned:.2f} dB): try more "
        "--minutes, or --minutes 0, which renders with the general model"
    ]


class Pipeline:
    """Reads what finished stages have left where it needs that, so that a command can go on anywhere."""

    def __init__(self, options: PhotosOptions, log: StageLog) -> None:
        self.options = options
        self.log = log
        self.out = Path(options.out)
        self.photos_folder = self.out / "work" / "photos"
        self.model_folder = self.out / "work" / "model"
        self.scene_folder = self.out / "scene"
        self.finetuned = self.out / "finetuned"
        self.video = self.out / "video.mp4"
        self.points = self.out / "points.ply"
        self.report = self.out / "report.html"
        self.summary = self.out / "summary.json"

    def stages(self) -> list[Stage]:
        """In order."""
        of, out = self._settings, self.out
        photos = of("source", "max_side", "max_images") | {
            "photographs": state_of(Path(self.options.source), out),
            "have_cameras": self.options.poses == "model",
        }
        work = (self.model_folder, out / "work" / "colmap", out / "work" / "vggt")
        general, own = self._evaluation("general"), self._evaluation("finetuned")
        seen = of("n_views")
        return [
            Stage("photographs", photos, self.prepare, (), (self.photos_folder,)),
            Stage(
                *("cameras", of("poses", "vggt_ckpt", "no_refine", "seed"), self.find_cameras, ("photographs",), work),
                can_go_on=True,  # features and matches are kept
            ),
            Stage("scene", {}, self.write_scene, ("cameras",), (self.scene_folder,)),
            Stage("check", {}, self.check, ("scene",)),
            Stage("general", seen | of("ckpt"), self.evaluate_general, ("scene",), (general,)),
            Stage(
                *("training", of("ckpt", "finetune", "minutes", "steps", "seed"), self.finetune, ("scene",)),
                makes=(self.finetuned,),
                can_go_on=True,
            ),
            Stage("finetuned", seen, self.evaluate_finetuned, ("training",), (own,)),
            Stage("points", seen, self.fuse_points, ("training",), (self.points,)),
            Stage("video", seen | of("trajectory", "frames", "fps"), self.film, ("training",), (self.video,)),
        ]

    def prepare(self) -> Found:
        """The photographs, upright and reduced, in a folder of their own."""
        source, side = Path(self.options.source), self.options.max_side
        if self.options.poses == "model":
            photos = given_cameras.prepare(source, self.photos_folder, max_side=side)
        else:
            most = {} if self.options.max_images is None else {"max_images": self.options.max_images}
            photos = prepare(source, self.photos_folder, max_side=side, min_images=MIN_CAMERAS, **most)
        sizes = sorted({(photo.width, photo.height) for photo in photos.photos}, reverse=True)
        shown = " and ".join(f"{width}x{height}" for width, height in sizes[:3]) + (" and others" * (len(sizes) > 3))
        kind = "frames of a video" if photos.is_video else "photographs"
        return plain_photos(photos) | {"line": f"{len(photos.photos)} {kind}, {shown} pixels"}

    def find_cameras(self) -> Found:
        """The cameras of as many of them as possible."""
        photos = self.photo_set
        if self.options.poses == "model":
            solution = given_cameras.solution(Path(self.options.source), photos)
            solution = with_enough(solution, len(photos.photos))
        else:
            solution = find_cameras(photos, self.out / "work", self.options)
        pixels = solution.reprojection_px
        named = [photo.source for photo in photos.photos if photo.name in solution.unregistered]
        warnings = list(solution.warnings)
        if named:
            share = f"{len(named)} of {len(photos.photos)} photographs"
            warnings.append(f"no camera was found for {share}: {shortened(named)}")
        found = keep_solution(solution, self.model_folder) | {"warnings": warnings}
        error = "" if pixels is None else f", {pixels:.2f} pixels of reprojection error"
        registered = count_registered(solution)
        ways = {"colmap": "structure from motion", "vggt": "VGGT", "model": "the model given"}
        line = f"{registered} of {len(photos.photos)} have a camera, by {ways[solution.poses]}{error}"
        return found | {"registered": registered, "line": line}

    def write_scene(self) -> Found:
        """A scene that every other command reads."""
        write_scene(self.solution, self.photo_set, self.scene_folder)
        scene = self.scene
        near, far = scene.near_far(tuple(scene.frames))
        near, far = near.min().item(), far.max().item()
        views = f"{counted(len(scene.train_views), 'view')} for training, {len(scene.held_out_views)} held out"
        line = f"{views}, depth from {near:.3g} to {far:.3g}"
        return {"near": near, "far": far, "line": line}

    def check(self) -> Found:
        """What the data doctor says about the scene."""
        with redirect_stdout(io.StringIO()):
            findings = check_data(_DATASET, self.scene_folder, None, _CHECKED_PAIRS)
        warnings = [f"the data doctor says: {problem}" for problem in findings.problems]
        line = f"the data doctor finds {counted(len(warnings), 'fault') if warnings else 'no fault'}"
        return {"warnings": warnings, "line": line}

    def evaluate_general(self) -> Found:
        """Held-out views by the general model."""
        return self._evaluate(Path(self.options.ckpt), "general")

    def finetune(self) -> Found:
        """A model of this scene."""
        if not self.options.is_finetuned:
            return {"line": "none (--minutes 0)"}
        steps = finetune(self.options, self.scene, self.scene_folder, self.finetuned)
        return {"steps": steps, "line": f"{counted(steps, 'step')} of fine-tuning"}

    def evaluate_finetuned(self) -> Found:
        """Held-out views by the model of this scene."""
        if not self.options.is_finetuned:
            return {"line": "nothing to evaluate"}
        found = self._evaluate(self.checkpoint, "finetuned")
        before, after = (self.metrics(kind)["mean"]["psnr"] for kind in ("general", "finetuned"))
        return {**found, "warnings": worse_than_general(before, after)}

    def fuse_points(self) -> Found:
        """Where the depth of several rendered views agrees; where it does nowhere, the points of the cameras."""
        options = RenderOptions(**self._rendering(self.checkpoint))
        checkpoint, device = read_nerf_checkpoint(self.checkpoint), usable_device(options.device)
        renderings = render_views(
            load_for(options, checkpoint, device, [self.scene]),
            self.scene,
            evenly_spread(tuple(self.scene.frames), _POINT_VIEWS),
            options.n_views,
            device=device,
            scale=_POINTS_SCALE,
            chunk=options.chunk,
            precision=precision_for(options, checkpoint.record, device),
        )
        cloud = fused_points(renderings.depth_maps()).cloud
        if len(cloud.points_world):
            write_ply(self.points, cloud)
            return {"line": f"{counted(len(cloud.points_world), 'point')} that several views confirm"}
        found = model_points(read_model(self.scene_folder / "sparse" / "0"))
        warning = "No depth of the model is confirmed by other views: it has not understood the scene."
        if not len(found.ids):
            return {"line": "none", "warnings": [f"{warning} There is no points.ply."]}
        write_ply(self.points, ColoredPoints(torch.from_numpy(found.points_world), torch.from_numpy(found.colors)))
        more = "points.ply holds the points that the cameras were found with."
        return {"line": f"{counted(len(found.ids), 'point')} of the cameras", "warnings": [f"{warning} {more}"]}

    def film(self) -> Found:
        """A camera's path through the scene."""
        given = self.options
        options = VideoOptions(
            **self._rendering(self.checkpoint),
            trajectory=given.trajectory,
            frames=given.frames,
            fps=given.fps,
            out=str(self.video),
        )
        film = filmed_frames(options, usable_device(options.device))
        write_film(film, options)
        asked = f"{given.trajectory}: " if given.trajectory != film.trajectory else ""
        return {"trajectory": film.trajectory, "line": f"{counted(film.count, 'frame')}, {asked}{film.trajectory}"}

    @cached_property
    def photo_set(self) -> PhotoSet:
        """What `prepare` has left."""
        return photos_from(self.log.entries["photographs"], self.photos_folder)

    @cached_property
    def solution(self) -> Solution:
        """What `find_cameras` has left."""
        return solution_from(self.log.entries["cameras"], self.model_folder)

    @cached_property
    def scene(self) -> PosedScene:
        """What `write_scene` has left, as all commands read it."""
        (scene,) = read_scenes(_DATASET, str(self.scene_folder), split="all", scans=None)
        return scene

    @property
    def checkpoint(self) -> Path:
        """The model that video and points are rendered from: the fine-tuned one, where there is one."""
        return finetuned_checkpoint(self.finetuned) if self.options.is_finetuned else Path(self.options.ckpt)

    @property
    def n_views(self) -> int:
        """Source views: those asked for, where there are so many."""
        return min(self.options.n_views, len(self.scene.train_views) - 1)

    def metrics(self, kind: str) -> dict[str, Any]:
        """Of the evaluation `general` or `finetuned`."""
        return json.loads((self._evaluation(kind) / "metrics.json").read_text())

    def panels(self, kind: str) -> Path:
        """The folder of the pictures for the report."""
        return self._evaluation(kind) / "panels"

    def _evaluation(self, kind: str) -> Path:
        return self.out / "evaluation" / kind

    def _settings(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self.options, name) for name in names}

    def _rendering(self, checkpoint: Path) -> dict[str, Any]:
        return {
            "ckpt": str(checkpoint),
            "dataset_name": _DATASET,
            "datadir": str(self.scene_folder),
            "n_views": self.n_views,
            "chunk": _CHUNK,
            "device": self.options.device,
        }

    def _evaluate(self, checkpoint: Path, kind: str) -> Found:
        options = EvaluateOptions(**self._rendering(checkpoint), out=str(self._evaluation(kind)))
        metrics = evaluate(options, PanelWriter(self.panels(kind), kind))
        scores, count = metrics["mean"], len(metrics["views"])
        copied = metrics["baselines"]["nearest_source"]["psnr"]
        seen = counted(count, "held-out view")
        line = f"{seen}: {scores['psnr']:.2f} dB (the nearest photograph copied: {copied:.2f} dB)"
        return {"line": line}
