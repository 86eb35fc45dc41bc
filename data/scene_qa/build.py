"""Give questions the views of their scenes: `python -m data.scene_qa.build --help`.

Questions come from ScanQA's or SQA3D's files or from records that name a scene; views, with cameras and depth
histograms, from any posed data set that the readers know. Writes records as JSON lines, and the geometry of each scene
once, beside them.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.image_io import write_bytes
from data.problems import LeftOut, Problems, Report, counted
from data.readers.registry import READERS
from data.scene_qa.official import SplitFiles, read_scanqa, read_sqa3d
from data.scene_qa.records import expanded, geometry_json, read_records, write_records
from data.scene_qa.types import QARecord
from data.scene_qa.views import PosedViews, SceneViews
from geometry import InputError, one_line_errors, require


def build(records: Sequence[QARecord], views: PosedViews, out: Path, report: Report) -> int:
    """Write the records whose scenes have views to a file; how many those are.

    Raises:
        InputError: for none.
    """
    rows, written = [], {}
    for record in records:
        found = views(record.scene)
        if found is None:
            report(LeftOut("questions about scenes without images", f"{record.id}: no scene {record.scene!r}"))
            continue
        if record.scene not in written:
            written[record.scene] = _write_geometry(out, record.scene, found)
        rows.append(_row(record, found, written[record.scene]))
    require(len(rows) > 0, "expected questions about scenes of the data set, got none")
    write_records(out, rows)
    return len(rows)


def _write_geometry(out: Path, scene: str, views: SceneViews) -> str:
    """Name of the file, relative to the records."""
    safe = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in scene)
    digest = hashlib.sha256(scene.encode()).hexdigest()[:8]
    name = f"{out.stem}_geometry/{safe}_{digest}.json"
    write_bytes(out.parent / name, json.dumps(geometry_json(views.geometry)).encode())
    return name


def _row(record: QARecord, views: SceneViews, geometry: str) -> Mapping[str, Any]:
    answer: Any = record.answers[0] if len(record.answers) == 1 else list(record.answers)
    return {
        "images": [str(path.resolve()) for path in views.images],
        "question": record.question,
        **({"situation": record.situation} if record.situation else {}),
        **({"action_json": record.action} if record.action is not None else {"answer": answer}),
        "geom_token": geometry,
        "task": record.task,
        "scene_id": record.scene,
        "question_id": record.id,
    }


def _questions(options: argparse.Namespace, report: Report) -> list[QARecord]:
    if options.questions == "records":
        return read_records(options.files, report, wants_images=False)
    paths = expanded(options.files)
    if options.questions == "scanqa":
        require(not options.annotations, f"--annotations {options.annotations}: expected none for scanqa")
        return [record for path in paths for record in read_scanqa(SplitFiles(path), None, report)]
    require(
        len(paths) == 1 and bool(options.annotations), "sqa3d: expected one file of questions and --annotations FILE"
    )
    return read_sqa3d(SplitFiles(paths[0], Path(options.annotations)), None, report)


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(prog="python -m data.scene_qa.build", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILES", help="questions")
    parser.add_argument("--questions", default="records", choices=("records", "scanqa", "sqa3d"), help="their format")
    parser.add_argument("--annotations", default="", help="SQA3D's answers")
    parser.add_argument("--dataset_name", default="scannet", help=f"of the views: one of {', '.join(sorted(READERS))}")
    parser.add_argument("--datadir", required=True, help="its folder")
    parser.add_argument("--views", type=int, default=8, help="of a scene, evenly spread")
    parser.add_argument("--out", type=Path, required=True, help="file of records to write, *.jsonl")
    options = parser.parse_args(arguments)
    require(options.views >= 1, f"--views: expected 1 or more, got {options.views}")
    if options.out.suffix != ".jsonl":
        raise InputError(f"--out: expected a name *.jsonl, got {options.out}")
    problems = Problems()
    records = _questions(options, problems.add)
    views = PosedViews(options.dataset_name, options.datadir, options.views, problems.add)
    count = build(records, views, options.out, problems.add)
    problems.announce(f"{options.dataset_name} in {options.datadir}")
    sys.stdout.write(f"wrote {counted(count, 'record')} to {options.out}\n")


if __name__ == "__main__":
    main()
