"""From what the stages have left to the page about it."""

import shlex
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.colmap_model import model_points, read_model
from data.point_cloud import ColoredPoints
from render.photos.camera_plot import PlottedCameras, camera_plots
from render.photos.options import PhotosOptions
from render.photos.pictures import PANELS, panel_path
from render.photos.pipeline import Pipeline
from render.photos.report import Comparison, Page, ShownPhoto
from render.stages import Entry


def page_of(pipeline: Pipeline, entries: Mapping[str, Entry], summary: Mapping[str, Any]) -> Page:
    """Everything that the report shows."""
    sources = source_names(pipeline)
    return Page(
        title=title_of(Path(pipeline.options.source)),
        summary=summary,
        photos=_photos(pipeline, sources),
        plots=_plots(pipeline, sources),
        comparisons=_comparisons(pipeline, sources),
        lines=[f"{name}: {entry['line']} ({entry['seconds']:.0f} s)" for name, entry in entries.items()],
        video=pipeline.video,
        commands=commands(pipeline),
    )


def title_of(source: Path) -> str:
    """What the photographs are called: by their folder or file, or the folder around one that is called `images`."""
    named = source.resolve()
    return named.parent.name if named.name == "images" else named.name


def source_names(pipeline: Pipeline) -> dict[int, str]:
    """View number of the scene -> what the user calls the photograph."""
    of_name = {photo.name: photo.source for photo in pipeline.photo_set.photos}
    frames = pipeline.scene.frames
    return {view: of_name[frame.image_path.name] for view, frame in frames.items()}


def commands(pipeline: Pipeline) -> dict[str, str]:
    """How to go on: what for, and the command."""
    ckpt, scene, out = pipeline.checkpoint, pipeline.scene_folder, pipeline.out
    on_scene = ("--ckpt", ckpt, "--dataset_name", "colmap", "--datadir", scene, "--n_views", pipeline.n_views)
    longer = replace(pipeline.options, resume=True, steps=None, minutes=max(2 * pipeline.options.minutes, 10.0))
    lines = {
        "Fly through the scene in a browser:": ("render.viewer", *on_scene),
        "A mesh, depth maps and cameras for other programs:": (
            *("render.export", *on_scene, "--what", "mesh", "depth", "cameras", "--out", out / "export"),
        ),
        "Another path for the video:": (
            *("render.video", *on_scene, "--trajectory", "spiral", "--frames", 90, "--out", out / "spiral.mp4"),
        ),
        "Scores of the held-out views, in detail:": ("render.evaluate", *on_scene, "--out", out / "scores"),
        "Fine-tune for longer (stages before that are kept):": (*("render.photos", *given_words(longer)),),
    }
    return {what: shlex.join(["python", "-m", *(str(word) for word in words)]) for what, words in lines.items()}


def given_words(options: PhotosOptions) -> list[str]:
    """The command line of these options: the source, and all that differ from their defaults."""
    words = [options.source]
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name != "source" and value != field.default:
            words += [f"--{field.name}"] if value is True else [f"--{field.name}", f"{value}"]
    return words


def _photos(pipeline: Pipeline, sources: Mapping[int, str]) -> list[ShownPhoto]:
    held_out = {sources[view] for view in pipeline.scene.held_out_views}
    lost = set(pipeline.log.entries["cameras"]["unregistered"])
    folder = pipeline.photo_set.folder

    def mark(name: str, source: str) -> str:
        return "lost" if name in lost else "held" if source in held_out else "train"

    return [
        ShownPhoto(folder / photo.name, photo.source, mark(photo.name, photo.source))
        for photo in pipeline.photo_set.photos
    ]


def _plots(pipeline: Pipeline, sources: Mapping[int, str]) -> tuple[str, str]:
    views = tuple(pipeline.scene.frames)
    held_out = np.isin(views, pipeline.scene.held_out_views)
    found = model_points(read_model(pipeline.scene_folder / "sparse" / "0"))
    points = ColoredPoints(torch.from_numpy(found.points_world), torch.from_numpy(found.colors))
    cameras = pipeline.scene.cameras(views)
    return camera_plots(PlottedCameras(cameras, held_out, [sources[view] for view in views]), points)


def _comparisons(pipeline: Pipeline, sources: Mapping[int, str]) -> list[Comparison]:
    kinds = ("general", *(("finetuned",) if pipeline.options.is_finetuned else ()))
    scores = {kind: {view["target"]: view for view in pipeline.metrics(kind)["views"]} for kind in kinds}
    found = []
    for view, general in scores["general"].items():
        paths = {name: panel_path(pipeline.panels(kind), view, name) for kind in kinds for name in PANELS}
        paths |= {kind: panel_path(pipeline.panels(kind), view, kind) for kind in kinds}
        psnr = {kind: scores[kind][view]["psnr"] for kind in kinds}
        psnr["nearest"] = general["baselines"]["nearest_source"]["psnr"]
        found.append(Comparison(sources[view], {name: path for name, path in paths.items() if path.is_file()}, psnr))
    return found
