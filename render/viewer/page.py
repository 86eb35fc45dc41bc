"""The page: controls, source cameras and pictures, by viser. Everything in it belongs to one visitor."""

import io
import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import viser
from PIL import Image
from torch import Tensor

from data.problems import counted
from data.scene import MIN_SIDE
from geometry import Cameras, InputError
from render.paths import frames_of, plain_path, write_path
from render.viewer.editor import PathEditor, vertical_fov
from render.viewer.gauge import Gauge
from render.viewer.layers import LAYERS, fitted
from render.viewer.looks import Look, Picture, full_size
from render.viewer.loop import RenderLoop
from render.viewer.questions import Asking, QuestionBox
from render.viewer.scene_renderer import SceneRenderer
from render.viewer.schedule import Task
from training.pictures import as_bytes

_MAX_THUMBNAILS = 200
"""Cameras beyond are drawn without an image."""
_THUMBNAIL = 96
"""Longest side in pixels."""
_FRUSTUM = 0.04
"""Length in units of the distance of what the views look at."""
_PLAIN, _HIGHLIGHTED = (90, 170, 255), (255, 140, 0)
"""Colors of the frusta of source views."""
_PREVIEW_FPS = 8
"""Steps per second when the page plays a path."""
_MAX_VIDEO = 8192
"""Pixels a side."""
_MAX_SOURCES = 8
"""At the right end of the control."""
_LENSES = (10, 120)
"""Ends of the control, vertical field of view in degrees."""


class Page:
    """What one visitor sees and does; the first picture comes by `changed`."""

    def __init__(
        self,
        client: viser.ClientHandle,
        renderer: SceneRenderer,
        gauge: Gauge,
        loop: RenderLoop,
        thumbnails: dict[int, np.ndarray],
        *,
        fov: float,
        n_views: int,
        max_side: int,
        path_file: Path,
        editor: PathEditor,
        asking: Asking | None = None,
    ) -> None:
        self.client, self.renderer, self.gauge, self.loop = client, renderer, gauge, loop
        self.max_side, self.path_file, self.editor = max_side, path_file, editor
        self._wants_screenshot = False
        self._playing = threading.Event()
        self._key_labels: list[viser.LabelHandle] = []
        self._controls(n_views, fov)
        self._path_controls()
        self._frusta(thumbnails)
        if asking is not None:
            self.questions = QuestionBox(client.gui, asking, self._highlight, self._go_to_source)
        client.camera.on_update(lambda _: self.changed())

    def _controls(self, n_views: int, fov: float) -> None:
        gui, scene = self.client.gui, self.renderer.scene
        self.status = gui.add_markdown("")
        held_out = [str(view) for view in scene.held_out_views]
        layers = LAYERS if held_out else [layer for layer in LAYERS if layer != "error"]
        with gui.add_folder("View"):
            self.layer = gui.add_dropdown("Layer", layers, initial_value="RGB")
            self.held_out = gui.add_dropdown(
                "Held-out view", held_out or ["none"], hint="the photograph that the layer error compares with"
            )
            most = min(_MAX_SOURCES, len(self.renderer.pool.ids))
            self.n_views = gui.add_slider("Source views", 2, max(most, n_views), 1, n_views)
            self.samples = {
                name: gui.add_slider(f"Samples ({name})", 1, max(64, 2 * count), 1, count)
                for name, count in self.renderer.samples.items()
                if count > 0
            }
            self.lens = gui.add_slider("Field of view", *_LENSES, 1, _lens(fov), hint="vertical, in degrees")
            self.shows_cameras = gui.add_checkbox("Source cameras", True, hint="click one to go there")
            self.screenshot = gui.add_button("Screenshot", hint="PNG of this view at full resolution")
        self.held_out.disabled = not held_out
        for control in (self.layer, self.n_views, *self.samples.values()):
            control.on_update(lambda _: self.changed())
        self.lens.on_update(self._change_lens)
        self.held_out.on_update(lambda _: self._go_to_held_out())
        self.shows_cameras.on_update(lambda _: self._hide_near())
        self.screenshot.on_click(lambda _: self._take_screenshot())

    def _path_controls(self) -> None:
        gui, editor = self.client.gui, self.editor
        with gui.add_folder("Camera path"):
            self.keys = gui.add_markdown("")
            actions: dict[str, Callable[[], None]] = {
                "Add this view": lambda: editor.add(*self.camera()),
                "Delete last": editor.delete,
                "Delete all": editor.clear,
            }
            for label, act in actions.items():
                gui.add_button(label).on_click(lambda _, act=act: self._edited(act))
            self.key = gui.add_number("Key", 1, min=1, step=1, hint="number of a key, as the scene shows it")
            gui.add_button("Go to key").on_click(lambda _: self._with_key(self._go_to_key))
            gui.add_button("Delete key").on_click(
                lambda _: self._with_key(lambda index: self._edited(lambda: editor.delete(index)))
            )
            closed = gui.add_checkbox("Closed loop", editor.closed)
            frames = gui.add_number("Frames", editor.frames, min=1, max=100_000, step=1)
            fps = gui.add_number("Frames per second", editor.fps, min=1, max=240, step=1)
            width = gui.add_number("Video width", editor.width, min=MIN_SIDE, max=_MAX_VIDEO, step=1)
            height = gui.add_number("Video height", editor.height, min=MIN_SIDE, max=_MAX_VIDEO, step=1)
            gui.add_button("Play / stop").on_click(lambda _: self._play())
            gui.add_button(f"Save as {self.path_file.name}").on_click(lambda _: self._save())
            gui.add_button("Download").on_click(lambda _: self._download())
        numbers = {"closed": closed, "frames": frames, "fps": fps, "width": width, "height": height}
        for name, control in numbers.items():
            control.on_update(lambda event, name=name: self._edited(lambda: setattr(editor, name, event.target.value)))
        self._edited(lambda: None)

    def _frusta(self, thumbnails: dict[int, np.ndarray]) -> None:
        pool = self.renderer.pool
        self._frustum_centers = self.gauge.to_page(pool.cameras.centers)
        self._frustum_handles = []
        for index, view in enumerate(pool.ids):
            rotation, position = self._in_page(pool.cameras.w2c[index])
            handle = self.client.scene.add_camera_frustum(
                f"/cameras/{view}",
                fov=vertical_fov(pool.cameras, index),
                aspect=pool.cameras.width / pool.cameras.height,
                scale=_FRUSTUM,
                thickness=2.0,
                thickness_units="screen",
                color=_PLAIN,
                image=thumbnails.get(view),
                wxyz=viser.transforms.SO3.from_matrix(rotation).wxyz,
                position=position,
            )
            handle.on_click(lambda _, index=index: self.go_to(pool.cameras, index))
            self._frustum_handles.append(handle)

    def changed(self) -> None:
        """Ask for what the controls and the camera say."""
        camera = self.client.camera
        rotation = viser.transforms.SO3(camera.wxyz).as_matrix()
        held_out = self.held_out.value
        look = Look(
            tuple(rotation.flatten().tolist()),
            tuple(camera.position.tolist()),
            float(camera.fov),
            self.layer.value,
            self.n_views.value,
            tuple((name, slider.value) for name, slider in self.samples.items()),
            int(held_out) if held_out != "none" else None,
        )
        self._hide_near()
        canvas = (camera.image_height, camera.image_width)
        if min(canvas) > 0:
            self.loop.submit(self.client.client_id, look, full_size(look, canvas, self.max_side, self.renderer))

    def show(self, task: Task, done: Picture, seconds: float, note: str) -> None:
        """A picture is ready."""
        camera = self.client.camera
        image = as_bytes(fitted(done.image, camera.image_height, camera.image_width))
        depth = None
        if self.shows_cameras.value and task.request.layer != "error":
            # what the ray does not hit lies behind everything
            z = torch.where(done.frame.depth > 0, done.frame.depth * self.gauge.scale, 150.0)
            depth = z.numpy()
        self.client.scene.set_background_image(image, format="jpeg", jpeg_quality=90, depth=depth)
        rows, columns = task.size
        lines = [f"{columns} x {rows}{'' if task.is_last else ' ...'} in {seconds:.2f} s"]
        lines.append(f"sources {', '.join(str(view) for view in done.frame.sources)}")
        if done.psnr is not None:
            lines.append(f"view {task.request.held_out}: PSNR {done.psnr:.2f} dB")
        self.status.content = "  \n".join([*lines, note] if note else lines)
        if task.is_last and self._wants_screenshot:
            self._wants_screenshot = False
            file = io.BytesIO()
            Image.fromarray(as_bytes(done.image)).save(file, "png")
            self.client.send_file_download("view.png", file.getvalue(), save_immediately=True)

    def say(self, message: str) -> None:
        """One line to the visitor."""
        self.client.add_notification("Viewer", message, auto_close_seconds=10)

    def camera(self) -> tuple[Tensor, float]:
        """World to camera in the scene, and the vertical field of view."""
        camera = self.client.camera
        rotation = torch.from_numpy(viser.transforms.SO3(camera.wxyz).as_matrix())
        return self.gauge.w2c(rotation, torch.from_numpy(np.array(camera.position))), camera.fov

    def go_to(self, cameras: Cameras, index: int) -> None:
        """Take the place and the lens of a camera of the scene."""
        rotation, position = self._in_page(cameras.w2c[index])
        camera = self.client.camera
        with self.client.atomic():
            camera.position = position
            camera.look_at = position + rotation[:, 2]  # turns about what the views look at
            camera.wxyz = viser.transforms.SO3.from_matrix(rotation).wxyz
            camera.fov = vertical_fov(cameras, index)
        self.lens.value = _lens(camera.fov)
        self.changed()

    def _change_lens(self, event: viser.GuiEvent) -> None:
        """As the visitor moves the control; where it follows the camera, the lens is exact already."""
        if event.client is not None:
            self.client.camera.fov = math.radians(self.lens.value)
            self.changed()

    def _go_to_held_out(self) -> None:
        self.go_to(self.renderer.scene.cameras([int(self.held_out.value)]), 0)

    def _highlight(self, index: int | None) -> None:
        """Mark one source view; None: none."""
        for number, handle in enumerate(self._frustum_handles):
            handle.color = _HIGHLIGHTED if number == index else _PLAIN

    def _go_to_source(self, index: int) -> None:
        self.go_to(self.renderer.pool.cameras, index)

    def close(self) -> None:
        """The visitor has left."""
        self._playing.clear()
        self.loop.remove(self.client.client_id)

    def _in_page(self, w2c: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Rotation and position of a camera of the scene: camera to the page's world."""
        rotation = w2c[:3, :3].double().T
        return rotation.numpy(), self.gauge.to_page(-rotation @ w2c[:3, 3].double()).numpy()

    def _hide_near(self) -> None:
        """A frustum in which the camera stands would cover the picture; the layer `error` has its own camera."""
        here = torch.from_numpy(np.array(self.client.camera.position))
        is_near = (self._frustum_centers - here).norm(dim=-1) < 2 * _FRUSTUM
        for handle, near in zip(self._frustum_handles, is_near.tolist(), strict=True):
            visible = self.shows_cameras.value and not near and self.layer.value != "error"
            if handle.visible != visible:
                handle.visible = visible

    def _take_screenshot(self) -> None:
        self._wants_screenshot = True
        self.loop.again(self.client.client_id)

    def _edited(self, act: Callable[[], None]) -> None:
        act()
        count = len(self.editor)
        self.keys.content = counted(count, "key")
        path = self.editor.path
        for label in self._key_labels:
            label.remove()
        places = [] if path is None else self.gauge.to_page(path.cameras.centers).tolist()
        self._key_labels = [
            self.client.scene.add_label(f"/keys/{number}", str(number), position=tuple(place))
            for number, place in enumerate(places, start=1)
        ]
        if path is None or count < 2:
            self.client.scene.remove_by_name("/path")
            return
        centers = self.gauge.to_page(frames_of(path, 20 * count).cameras.centers).numpy().astype(np.float32)
        segments = np.stack([centers[:-1], centers[1:]], axis=1)
        self.client.scene.add_line_segments(
            "/path", segments, colors=(255, 140, 0), thickness=3.0, thickness_units="screen"
        )

    def _with_key(self, act: Callable[[int], None]) -> None:
        """Do something with the key whose number the visitor has chosen."""
        if self.key.value <= len(self.editor):
            act(self.key.value - 1)
        else:
            self.say(f"there is no key {self.key.value}: the path has {counted(len(self.editor), 'key')}")

    def _go_to_key(self, index: int) -> None:
        path = self.editor.path
        if path is not None:
            self.go_to(path.cameras, index)

    def _play(self) -> None:
        path = self.editor.path
        if self._playing.is_set() or path is None:
            self._playing.clear()
            return
        self._playing.set()
        steps = max(2, round(self.editor.frames / self.editor.fps * _PREVIEW_FPS))
        cameras = frames_of(path, steps).cameras
        for index in range(steps):
            if not self._playing.is_set():
                return
            self.go_to(cameras, index)
            time.sleep(1 / _PREVIEW_FPS)
        self._playing.clear()

    def _save(self) -> None:
        path = self.editor.path
        if path is None:
            self.say("add a view to the path first")
            return
        try:
            write_path(self.path_file, path)
        except InputError as error:
            self.say(str(error))
            return
        self.say(f"saved; python -m render.video --path {self.path_file} renders it")

    def _download(self) -> None:
        path = self.editor.path
        if path is None:
            self.say("add a view to the path first")
            return
        content = json.dumps(plain_path(path), indent=2).encode()
        self.client.send_file_download(self.path_file.name, content, save_immediately=True)


def _lens(vertical_fov: float) -> int:
    """Where the control stands, of radians."""
    return min(max(round(math.degrees(vertical_fov)), _LENSES[0]), _LENSES[1])


def thumbnails_of(renderer: SceneRenderer) -> dict[int, Any]:
    """Small images of the source views; one that cannot be read is missing."""
    images = {}
    for view in renderer.pool.ids[:_MAX_THUMBNAILS]:
        try:
            image = renderer.scene.image(view)
        except InputError:
            continue
        factor = _THUMBNAIL / max(image.shape[:2])
        images[view] = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return images
