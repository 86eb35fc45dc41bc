"""The page about a run: one HTML file that needs nothing else, on a phone as well."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from render.photos.pictures import PANELS, embedded

_THUMBNAIL = 180
"""Pixels of a photograph's longer side on the contact sheet."""
_PANEL = 420
"""Pixels of a comparison's longer side."""
_MAX_VIDEO_BYTES = 12_000_000
"""A larger video is not put into the page, which phones refuse to open then; it lies beside it."""
_CAPTIONS = {
    "truth": "photograph",
    "general": "general model",
    "finetuned": "fine-tuned",
    "nearest": "nearest source",
    "depth": "depth (red: near)",
}
_ROWS = {
    "nearest_source": "nearest source photograph, copied",
    "general": "general model",
    "finetuned": "fine-tuned model",
}
_MEANING = (
    "Some photographs were held out: no training saw them, and they were rendered from others. PSNR compares pixel by "
    "pixel, in dB: 3 dB more is half the squared error; below 18 a picture looks blurred or doubled, from 25 on most "
    "detail is right. SSIM compares structure; 1 is the photograph itself. The first row is what anybody gets without "
    "a model, by copying the photograph taken nearest to it."
)
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #c62828; --good: #2e7d32; --held: #e65100; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 0 auto; padding: 0 16px 48px; }
h1 { font-size: 1.6em; margin: .8em 0 0; overflow-wrap: anywhere; } h2 { font-size: 1.2em; margin: 2em 0 .5em; }
p.lead { margin: .2em 0 1em; } .warnings { border-left: 4px solid var(--held); padding: .2em 1em; }
.warnings li { margin: .3em 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; } th, td { padding: .3em .9em .3em 0; border-bottom: 1px solid var(--line); }
th { text-align: left; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
.row { display: flex; flex-wrap: wrap; gap: 8px; } figure { margin: 0; } figcaption { font-size: .8em; }
.comparison { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 8px; margin: 0 0 16px; }
.comparison img, video { width: 100%; height: auto; display: block; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(110px, 1fr)); gap: 8px; }
.sheet img { width: 100%; height: 90px; object-fit: contain; background: #8882; display: block; }
.sheet figcaption { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.sheet figure { border-bottom: 3px solid var(--good); } .sheet .held { border-color: var(--held); }
.sheet .lost { border-color: var(--bad); } .sheet .lost img { opacity: .45; }
.plots > figure { flex: 1 1 300px; } svg.plot { width: 100%; height: auto; border: 1px solid var(--line); }
polygon { stroke-width: 1.5; fill-opacity: .35; } polygon.train { stroke: var(--good); fill: var(--good); }
polygon.held { stroke: var(--held); fill: var(--held); }
pre { overflow-x: auto; background: #8882; padding: .6em .8em; margin: .2em 0 .8em; font-size: .85em; }
"""


@dataclass(frozen=True)
class ShownPhoto:
    """A photograph on the contact sheet."""

    path: Path
    source: str
    """What the user calls it."""
    mark: str
    """`train`, `held` (out) or `lost` (has no camera)."""


@dataclass(frozen=True)
class Comparison:
    """A held-out view and what was made of it."""

    source: str
    panels: Mapping[str, Path]
    """By the names of `PANELS`; those that there are."""
    psnr: Mapping[str, float | None]
    """Of this view, by the same names."""


@dataclass(frozen=True)
class Page:
    """Everything that the report shows."""

    title: str
    summary: Mapping[str, Any]
    photos: Sequence[ShownPhoto]
    plots: tuple[str, str]
    """SVG from above and from the side."""
    comparisons: Sequence[Comparison]
    lines: Sequence[str]
    """What the stages found, in order."""
    video: Path
    commands: Mapping[str, str]
    """How to go on: what for, and the command."""


def report(page: Page) -> str:
    """The page as HTML. Names of files may be anything; they are escaped."""
    parts = [
        f"<h1>{escape(page.title)}</h1>",
        f'<p class="lead">{escape(_lead(page.summary))}</p>',
        _warnings(page.summary["warnings"]),
        _video(page.video, page.summary["trajectory"]),
        _section("How good it is", _table(page.summary["held_out"]) + f"<p>{escape(_MEANING)}</p>"),
        _section("Photographs that no training saw", _comparisons(page.comparisons)),
        _section("Cameras", _plots(page)),
        _section("Photographs", _contact_sheet(page.photos)),
        _section("What was done", _stages(page.lines)),
        _section("How to go on", _commands(page.commands)),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(page.title)}</title><style>{_STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{"".join(parts)}\n</body></html>\n'


def _lead(summary: Mapping[str, Any]) -> str:
    pixels = summary["reprojection_px"]
    return " · ".join(
        [
            f"{summary['registered']} of {summary['images']} photographs have a camera ({summary['poses']})",
            *([] if pixels is None else [f"{pixels:.2f} pixels of reprojection error"]),
            f"{summary['seconds']['total']:.0f} seconds",
        ]
    )


def _section(title: str, content: str) -> str:
    return f"\n<h2>{escape(title)}</h2>\n{content}" if content else ""


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in warnings)
    return f'\n<h2>Warnings</h2>\n<ul class="warnings">{lines}</ul>'


def _video(path: Path, trajectory: str) -> str:
    caption = f"<p>Path of the camera: {escape(trajectory)}.</p>"
    if path.stat().st_size > _MAX_VIDEO_BYTES:
        return f"\n<h2>Video</h2>\n<p>{escape(path.name)}, beside this page: too large to be in it.</p>{caption}"
    content = base64.b64encode(path.read_bytes()).decode()
    source = f"data:video/mp4;base64,{content}"
    return f'\n<h2>Video</h2>\n<video controls loop muted autoplay playsinline src="{source}"></video>{caption}'


def _table(held_out: Mapping[str, Mapping[str, float | None] | None]) -> str:
    rows = []
    for name, title in _ROWS.items():
        scores = held_out[name]
        if scores is not None:
            cells = (_number(scores["psnr"], ".2f"), _number(scores["ssim"], ".3f"))
            numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
            rows.append(f"<tr><td>{title}</td>{numbers}</tr>")
    return f"<table><tr><th></th><th>PSNR (dB)</th><th>SSIM</th></tr>{''.join(rows)}</table>"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _comparisons(comparisons: Sequence[Comparison]) -> str:
    rows = []
    for one in comparisons:
        figures = [_panel(one, name) for name in PANELS if name in one.panels]
        rows.append(f'<p>{escape(one.source)}</p><div class="comparison">{"".join(figures)}</div>')
    return "\n".join(rows)


def _panel(comparison: Comparison, name: str) -> str:
    psnr = comparison.psnr.get(name)
    caption = _CAPTIONS[name] + (f", {psnr:.2f} dB" if psnr is not None else "")
    return _figure(embedded(comparison.panels[name], _PANEL), caption)


def _figure(source: str, caption: str, kind: str = "") -> str:
    classes = f' class="{kind}"' if kind else ""
    return (
        f'<figure{classes}><img loading="lazy" alt="{escape(caption)}" src="{source}">'
        f'<figcaption title="{escape(caption)}">{escape(caption)}</figcaption></figure>'
    )


def _plots(page: Page) -> str:
    from_above, from_side = page.plots
    near, far = (f"{page.summary[name]:.3g}" for name in ("near", "far"))
    caption = f"Green: training, orange: held out. Rays start at {near} and end at {far} scene units."
    return (
        f'<div class="row plots"><figure>{from_above}<figcaption>from above</figcaption></figure>'
        f"<figure>{from_side}<figcaption>from the side</figcaption></figure></div><p>{caption}</p>"
    )


def _contact_sheet(photos: Sequence[ShownPhoto]) -> str:
    said = {"train": "", "held": " (held out)", "lost": " (no camera)"}
    figures = [_figure(embedded(one.path, _THUMBNAIL), one.source + said[one.mark], one.mark) for one in photos]
    legend = "Green: has a camera, orange: has one and is held out, red and pale: no camera was found."
    return f'<p>{legend}</p><div class="sheet">{"".join(figures)}</div>'


def _stages(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _commands(commands: Mapping[str, str]) -> str:
    return "".join(f"<p>{escape(what)}</p><pre>{escape(command)}</pre>" for what, command in commands.items())
