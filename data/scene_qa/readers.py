"""Data sets of questions by the name that `--dataset_name` takes. All readers have one signature."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data.problems import Report
from data.scene_qa.arkit import read_arkit
from data.scene_qa.official import read_scanqa, read_sqa3d, scanqa_files, sqa3d_files
from data.scene_qa.records import read_records
from data.scene_qa.types import QARecord
from data.scene_qa.views import FindViews, PosedViews
from geometry import require


@dataclass(frozen=True)
class ReadSpec:
    """What to read."""

    datadir: str
    scannet_dir: str
    """Folder of ScanNet scenes, for questions without images."""
    max_views: int
    """Of a scene, where the reader chooses them."""


@dataclass(frozen=True)
class ReadRecords:
    """Records of a data set."""

    train: list[QARecord]
    val: list[QARecord] | None
    """None: the data set has no split of its own."""


def _records(spec: ReadSpec, report: Report) -> ReadRecords:
    """A file pattern; or a folder with `train.json[l]` and `val.json[l]`."""
    folder = Path(spec.datadir)
    if not folder.is_dir():
        return ReadRecords(read_records([spec.datadir], report), None)
    parts = []
    for part in ("train", "val"):
        found = sorted(folder.glob(f"{part}.json*"))
        require(len(found) > 0, f"{folder}: expected {part}.json or {part}.jsonl in it, or a pattern such as *.jsonl")
        parts.append(read_records(found, report))
    return ReadRecords(*parts)


def _scanqa(spec: ReadSpec, report: Report) -> ReadRecords:
    folder, views = Path(spec.datadir), _scannet_views(spec, report)
    return ReadRecords(*(read_scanqa(scanqa_files(folder, part), views, report) for part in ("train", "val")))


def _sqa3d(spec: ReadSpec, report: Report) -> ReadRecords:
    folder, views = Path(spec.datadir), _scannet_views(spec, report)
    return ReadRecords(*(read_sqa3d(sqa3d_files(folder, part), views, report) for part in ("train", "val")))


def _arkit(spec: ReadSpec, report: Report) -> ReadRecords:
    return ReadRecords(read_arkit(Path(spec.datadir), spec.max_views, report), None)


def _scannet_views(spec: ReadSpec, report: Report) -> FindViews:
    require(
        bool(spec.scannet_dir),
        "--scannet_dir: expected the folder of ScanNet's scenes, whose images the questions need",
    )
    return PosedViews("scannet", spec.scannet_dir, spec.max_views, report)


QA_READERS: dict[str, Callable[[ReadSpec, Report], ReadRecords]] = {
    "records": _records,
    "scanqa": _scanqa,
    "sqa3d": _sqa3d,
    "arkit": _arkit,
}
