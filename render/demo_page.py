"""What the demonstration left, as one HTML file that needs nothing else: on a phone too, by day and by night."""

import base64
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.image_io import read_image
from data.point_cloud import ColoredPoints
from data.readers.registry import read_scenes
from data.scene import PosedScene
from geometry import Cameras, require
from geometry.cameras import rigid_inverse
from render.photos.camera_plot import PlottedCameras, camera_plots
from render.photos.pictures import data_uri, embedded
from render.reconstruct.orientation import up_direction
from training.pictures import as_bytes, colored_depth

MAX_BYTES = 15_000_000
"""Of a page that phones still open."""
_SHOWN_VIEWS = 6
_POINTS_PER_VIEW = 60
_MISSING = "Not shown: this part did not run, because {} is not installed (the extra `vqa`: pip install -e .[vqa])."
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --good: #2e7d32; --bad: #c62828; --accent: #1769aa; }
@media (prefers-color-scheme: dark) { :root { --good: #81c784; --bad: #ef9a9a; --accent: #90caf9; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 1080px; margin: 0 auto; padding: 0 16px 64px; }
h1 { font-size: 1.8em; line-height: 1.2; margin: 1em 0 .2em; }
h2 { font-size: 1.3em; margin: 2.4em 0 .3em; padding-top: .5em; border-top: 1px solid var(--line); }
h3 { font-size: 1em; margin: 1.4em 0 .4em; }
p { max-width: 46em; margin: .5em 0; }
nav { display: flex; flex-wrap: wrap; gap: .2em 1.2em; margin: .8em 0; } a { color: var(--accent); }
figure { margin: .6em 0; } figcaption { font-size: .85em; opacity: .8; }
img, video { max-width: 100%; height: auto; display: block; border-radius: 4px; }
video, img.wide { width: 100%; } video { max-width: 640px; background: #000; }
img.sharp { image-rendering: pixelated; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 8px; }
.grid figure { margin: 0; } .grid img { width: 100%; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 12px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .95em; }
th, td { padding: .35em .9em .35em 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); }
svg.plot { width: 100%; max-height: 380px; border: 1px solid var(--line); border-radius: 4px; background: var(--soft); }
polygon { stroke-width: 1.5; fill-opacity: .35; stroke: var(--accent); fill: var(--accent); }
pre { overflow-x: auto; background: var(--soft); padding: .6em .8em; border-radius: 4px; font-size: .85em; }
.missing { border-left: 4px solid var(--bad); padding: .2em 1em; }
"""


def write_page(
    out: Path,
    summary: Mapping[str, Any],
    commands: Mapping[str, Sequence[str]],
    missing: Mapping[str, str],
) -> Path:
    """`index.html` below the demonstration's folder.

    Args:
        out: folder of the demonstration.
        summary: its `summary.json`.
        commands: of the stages by name, as words after `python`.
        missing: stages that were not run, and the packages that they lack.

    Raises:
        InputError: for a page that would be larger than `MAX_BYTES`.
    """
    parts: dict[str, tuple[str, Callable[[], str]]] = {
        "data": ("Photographs, depth and cameras", lambda: _photographs(out / "data")),
        "video": ("New views and video", lambda: _new_views(out, summary)),
        "reconstruction": ("Reconstruction with optional inputs", lambda: _reconstruction(out / "reconstruction")),
        "questions": ("Questions and answers", lambda: _questions(out / "questions")),
        "forecast": ("Forecast", lambda: _forecast(out / "forecast")),
    }
    sections, links = [], []
    for name, (title, content) in parts.items():
        if name not in commands:
            continue
        text = f'<p class="missing">{escape(_MISSING.format(missing[name]))}</p>' if name in missing else content()
        sections.append(f'<h2 id="{name}">{escape(title)}</h2>\n{text}')
        links.append(f'<a href="#{name}">{escape(title)}</a>')
    sections.append(f"<h2>What was run</h2>\n{_stages(summary['seconds'], commands, missing)}")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>VGGT-NeRF: the demonstration</title><link rel="icon" href="data:,"><style>{_STYLE}</style>'
    )
    lead = (
        "Everything on this page was made on this machine by `make demo`: small networks, procedural scenes, no "
        "download. It shows that every part works, not what large weights do with photographs."
    )
    body = f"<h1>VGGT-NeRF: the demonstration</h1><p>{_code(lead)}</p><nav>{''.join(links)}</nav>\n"
    text = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}{"".join(sections)}\n</body></html>\n'
    require(len(text) <= MAX_BYTES, f"{out}/index.html: expected at most {MAX_BYTES} bytes, got {len(text)}")
    path = out / "index.html"
    path.write_text(text)
    return path


# ---- the sections


def _photographs(folder: Path) -> str:
    scene = read_scenes("dtu", str(folder), split="all", scans=("scan1",), evaluated_only=True)[0]
    ids = sorted(scene.frames)
    shown = ids[:: max(1, len(ids) // _SHOWN_VIEWS)][:_SHOWN_VIEWS]
    views = scene.views(shown, wants_mask=False)
    figures = []
    for number, view in enumerate(shown):
        image = views.images[number].permute(1, 2, 0)
        pictures = [image]
        if views.depth is not None:
            pictures.append(colored_depth(views.depth[number], views.near[number].item(), views.far[number].item()))
        stacked = as_bytes(torch.cat(pictures))
        figures.append(_image(data_uri(stacked), f"view {view}", caption=f"view {view}"))
    above, side = _camera_plots(scene, ids, shown)
    return (
        f"<p>{len(ids)} views of scan1, a procedural scan in DTU's layout: some of them with their depth (red: near), "
        f'and all cameras, with points of the shown depth maps.</p><div class="grid">{"".join(figures)}</div>'
        f'<div class="pair"><figure>{above}<figcaption>from above</figcaption></figure>'
        f"<figure>{side}<figcaption>from the side</figcaption></figure></div>"
    )


def _camera_plots(scene: PosedScene, ids: Sequence[int], shown: Sequence[int]) -> tuple[str, str]:
    """Turned upright; points of the shown views."""
    cameras = scene.cameras(ids)
    up = torch.from_numpy(up_direction(cameras.c2w[:, :3, :3].double().numpy())).double()
    first = cameras.c2w[0, :3, 2].double()
    forward = torch.nn.functional.normalize(first - (first @ up) * up, dim=0)
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = torch.stack([torch.linalg.cross(forward, up), forward, up])
    upright = Cameras(
        rigid_inverse(turn @ cameras.c2w.double()), cameras.intrinsics.double(), cameras.height, cameras.width
    )
    points = _points(scene, shown)
    moved = points._replace(points_world=points.points_world.double() @ turn[:3, :3].T)
    held = np.zeros(len(ids), dtype=bool)
    return camera_plots(PlottedCameras(upright, held, [f"view {view}" for view in ids]), moved)


def _points(scene: PosedScene, shown: Sequence[int]) -> ColoredPoints:
    views = scene.views(shown, wants_mask=False)
    if views.depth is None:
        return ColoredPoints(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.uint8))
    every = max(1, round((views.depth[0].numel() / (4 * _POINTS_PER_VIEW)) ** 0.5))
    rows, cols = torch.arange(0, views.cameras.height, every), torch.arange(0, views.cameras.width, every)
    grid = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), -1).reshape(-1, 2)
    pixels = (grid.flip(-1) + 0.5).expand(len(shown), -1, -1)
    depth = views.depth[:, grid[:, 0], grid[:, 1]]
    colors = views.images[:, :, grid[:, 0], grid[:, 1]].mT
    known = depth > 0
    world = views.cameras.unproject(pixels, depth)
    return ColoredPoints(world[known], (colors[known] * 255).round().to(torch.uint8))


def _new_views(out: Path, summary: Mapping[str, Any]) -> str:
    rows = {
        "mean color": ("mean_colour", "unseen scans"),
        "nearest source, copied": ("nearest_source", "unseen scans"),
        "general model": ("general", "unseen scans"),
        "general model, scan1": ("general_on_finetuned_scan", "held-out views"),
        "fine-tuned, scan1": ("finetuned", "held-out views"),
    }
    keys = (("psnr", "PSNR, dB", ".2f"), ("ssim", "SSIM", ".3f"), ("depth_abs", "depth error, mm", ".1f"))
    cells = [
        [title, of, *(_number(summary[key].get(name), form) for name, _, form in keys)]
        for title, (key, of) in rows.items()
    ]
    pictures = sorted((out / "evaluate_finetuned").glob("*.png"))[:2]
    figures = "".join(
        _image(
            embedded(path, 1000), path.stem, kind="wide", caption=f"{path.stem}: sources, photograph, rendering, depth"
        )
        for path in pictures
    )
    return (
        "<p>A general model was trained on the other scans, measured on scans it has never seen, then fine-tuned on "
        f"scan1 and measured on views that it was not fine-tuned on ({len(summary['scans']['unseen'])} unseen scans, "
        f"protocol {escape(summary['protocol'])}).</p>"
        + _video(out / "video.mp4", "a path of the camera between the photographs of scan1")
        + _table(["", "on", *(title for _, title, _ in keys)], cells, numbers=3)
        + figures
    )


def _reconstruction(folder: Path) -> str:
    scores = json.loads((folder / "scores.json").read_text())
    keys = (
        ("pointmaps_abs_rel", "points"),
        ("z_depth_abs_rel", "depth"),
        ("pose_rotation_deg", "rotation, degrees"),
        ("metric_scale_abs_rel", "scale"),
    )
    cells = [
        [*(part.replace("_", " ") for part in name.split(": ")), *(_number(one.get(key), ".3f") for key, _ in keys)]
        for name, one in scores.items()
    ]
    family = next(iter(scores)).split(":")[0]
    figures = "".join(
        _image(
            data_uri(read_image(folder / family / name / "views.png")),
            f"{family}, given {name}",
            kind="wide sharp",
            caption=f"`{family}`, given {name.replace('_', ' ')}: image, true and predicted distance of every view",
        )
        for name in ("images", "poses_and_depth")
        if (folder / family / name / "views.png").is_file()
    )
    return (
        "<p>The shipped MapAnything reconstructs rooms that it has not seen from images alone, and from more and more "
        "known geometry. Errors are relative to the truth but for rotations; smaller is better.</p>"
        + _table(["room", "given", *(title for _, title in keys)], cells, numbers=len(keys))
        + figures
    )


def _questions(folder: Path) -> str:
    answers = json.loads((folder / "answers.json").read_text())
    right = sum(one["is_right"] for one in answers)
    rows = []
    for one in answers:
        kind = "good" if one["is_right"] else "bad"
        said = escape(one["answer"]) or "(nothing)"
        truth = "" if one["is_right"] else f"<br>true: {escape(one['true'])}"
        rows.append(f'<tr><td>{escape(one["question"])}</td><td><span class="{kind}">{said}</span>{truth}</td></tr>')
    shown = [next((one for one in answers if one["is_right"]), answers[0])]
    shown += [one for one in answers if not one["is_right"]][:1]
    figures = "".join(
        _image(
            embedded(folder / one["picture"], 900),
            one["question"],
            kind="wide",
            caption=f"where it looked: {one['question']} {one['answer']}{'' if one['is_right'] else ' (wrong)'}",
        )
        for one in dict((one["picture"], one) for one in shown).values()
    )
    return (
        f"<p>All questions that are made of a room that no training has. {right} of {len(answers)} answers are right; "
        "what the network reads and what it does not is in docs/model_cards.md.</p>"
        f'<div class="scroll"><table><tr><th>question</th><th>answer</th></tr>{"".join(rows)}</table></div>{figures}'
    )


def _forecast(folder: Path) -> str:
    record = json.loads((folder / "steps.json").read_text())
    cells = [
        [name, f"{row['seconds']:.1f}", _number(row["iou"], ".3f")]
        for name, rows in record["commands"].items()
        for row in rows
    ]
    return (
        "<p>A vehicle flies through a procedural world that no training has. From three observed voxel grids the "
        "shipped world model forecasts the next four: as it was flown (recorded), and told to turn. IoU compares with "
        "the world as it is seen from where the command leads.</p>"
        + _video(folder / "forecast.mp4", "from above, in 3-D, and the columns that are wrong")
        + _table(["command", "seconds ahead", "IoU"], cells, numbers=2)
    )


def _stages(seconds: Mapping[str, float], commands: Mapping[str, Sequence[str]], missing: Mapping[str, str]) -> str:
    cells = [[name, "not run" if name in missing else f"{seconds.get(name, 0):.0f}"] for name in commands] + [
        ["total", f"{seconds['total']:.0f}"]
    ]
    lines = "\n".join(shlex.join(["python", *words]) for words in commands.values())
    return _table(["stage", "seconds"], cells, numbers=1) + f"<pre>{escape(lines)}</pre>"


# ---- parts of the page


def _image(source: str, alt: str, *, kind: str = "", caption: str = "") -> str:
    described = f"<figcaption>{_code(caption)}</figcaption>" if caption else ""
    return f'<figure><img class="{kind}" loading="lazy" alt="{escape(alt)}" src="{source}">{described}</figure>'


def _video(path: Path, caption: str) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    source = f"data:video/mp4;base64,{content}"
    return (
        f'<figure><video controls loop muted autoplay playsinline src="{source}"></video>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int) -> str:
    """The last so many columns are numbers."""
    first = len(titles) - numbers

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if column >= first else ''}>{escape(cell)}</{tag}>"
            for column, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{line(titles, "th")}</tr>{body}</table></div>'


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _code(text: str) -> str:
    """Escaped; words between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
