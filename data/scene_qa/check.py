"""Check files of questions: `python -m data.scene_qa.check /path/to/records.jsonl`.

Files: records as JSON or JSON lines (`*` stands for many), official ScanQA files, or SQA3D's questions, beside which
the annotations of the same name are read. Every problem is a line with file, line and key; then counts. A record
without scene is one, since no split can place it. Exit status 1 if there is any problem.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data.image_io import image_size
from data.problems import LeftOut, Report, counted
from data.scene_qa.json_lines import read_entries
from data.scene_qa.official import SplitFiles, read_scanqa, read_sqa3d
from data.scene_qa.records import expanded, read_records
from data.scene_qa.types import QARecord
from geometry import InputError, one_line_errors, require


class Findings:
    """Problems by kind, printed as they come."""

    def __init__(self, limit: int) -> None:
        """At most `limit` lines of each kind are printed; all are counted."""
        self.kinds: Counter[str] = Counter()
        self._limit = limit

    def add(self, problem: InputError) -> None:
        """Count a problem and print it."""
        kind = problem.kind if isinstance(problem, LeftOut) else "problems"
        self.kinds[kind] += 1
        if self.kinds[kind] <= self._limit:
            sys.stdout.write(f"problem: {problem}\n")
        elif self.kinds[kind] == self._limit + 1:
            sys.stdout.write(f"problem: more {kind}; they are counted below\n")


def check_files(patterns: Sequence[str], findings: Findings, *, wants_images: bool = True) -> list[QARecord]:
    """Records that can be used; everything else is a finding.

    Raises:
        InputError: for a file that cannot be read at all.
    """
    records: list[QARecord] = []
    plain: list[Path] = []
    for path in expanded(patterns):
        official = _official(path, findings.add)
        if official is None:
            plain.append(path)
        else:
            records += official
    if plain:
        records += read_records(plain, findings.add, wants_images=wants_images)
    if not records and not findings.kinds:
        findings.add(LeftOut("files without records", f"{', '.join(patterns)}: expected records, got none"))
    for record in records:
        if not record.scene:
            findings.add(
                LeftOut("records without scene_id", f"record {record.id!r}, scene_id: expected text, got none")
            )
    if wants_images:
        for path in sorted({path for record in records for path in record.images}):
            try:
                image_size(path)
            except InputError as error:
                findings.add(error)
    return records


def _official(path: Path, report: Report) -> list[QARecord] | None:
    """Records of a file in an official format; None: it is of another kind."""
    entries = read_entries(path, ("questions", "annotations", "data", "samples"))
    first = entries[0].value if entries and isinstance(entries[0].value, dict) else {}
    if "images" in first or "question_id" not in first:
        return None
    if "answers" in first and "question" not in first:
        raise InputError(
            f"{path}: expected records or questions, got annotations; they are read beside their questions"
        )
    if "situation" in first and "answers" not in first and "answer" not in first:
        beside = path.with_name(path.name.replace("questions", "sqa_annotations"))
        beside = beside if beside != path and beside.is_file() else None
        return read_sqa3d(SplitFiles(path, beside), None, report)
    return read_scanqa(SplitFiles(path), None, report) if "answers" in first else None


def summary(records: Sequence[QARecord], findings: Findings) -> list[str]:
    """Lines of counts."""
    scenes = {record.scene for record in records if record.scene}
    lines = [f"{counted(len(records), 'usable record')} of {counted(len(scenes), 'scene')}"]
    tasks = Counter(record.task for record in records)
    lines += [f"  task {task}: {count}" for task, count in sorted(tasks.items())]
    with_geometry = sum(record.geometry is not None for record in records)
    lines.append(f"  with geometry: {with_geometry}; with an action: {sum(one.action is not None for one in records)}")
    views = Counter(len(record.images) for record in records)
    lines.append("  images per record: " + ", ".join(f"{views[count]} with {count}" for count in sorted(views)))
    answers = Counter(text for record in records for text in {*record.answers})
    if answers:
        text, count = min(answers.items(), key=lambda item: (-item[1], item[0]))
        lines.append(f"  most frequent answer: {text!r}, {100 * count / len(records):.1f} % of the records")
    lines += [f"{kind}: {count}" for kind, count in sorted(findings.kinds.items())] or ["no problem"]
    return lines


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and check."""
    parser = argparse.ArgumentParser(prog="python -m data.scene_qa.check", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILES", help="files, or patterns with *")
    parser.add_argument("--no_images", action="store_true", help="image files need not be there")
    parser.add_argument("--show", type=int, default=20, help="problems of each kind that are printed; all are counted")
    options = parser.parse_args(arguments)
    require(options.show >= 0, f"--show: expected 0 or more, got {options.show}")
    findings = Findings(options.show)
    records = check_files(options.files, findings, wants_images=not options.no_images)
    sys.stdout.write("\n".join(summary(records, findings)) + "\n")
    if findings.kinds:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
