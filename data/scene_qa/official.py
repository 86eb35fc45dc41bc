"""The official question files of ScanQA (Azuma et al. 2022) and SQA3D (Ma et al. 2023) -> records.

Both name scenes of ScanNet and bring no images: views come from `find_views`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.problems import LeftOut, Report, raise_problem
from data.scene_qa.json_lines import Entry, read_entries, word
from data.scene_qa.types import QARecord
from data.scene_qa.views import FindViews
from geometry import InputError

_AnswerOf = Callable[[Mapping[str, Any]], tuple[str, object]]
"""Row of a question -> its task and its answers as they stand in a file."""


class SplitFiles(NamedTuple):
    """Files of one part of a data set."""

    questions: Path
    annotations: Path | None = None
    """Answers of SQA3D; None: without, or in the same file."""


def scanqa_files(folder: Path, split: str) -> SplitFiles:
    """`*ScanQA*{split}*.json` in a folder.

    Raises:
        InputError: for no such file, or several.
    """
    return SplitFiles(_only(folder, f"*ScanQA*{split}*.json"))


def sqa3d_files(folder: Path, split: str) -> SplitFiles:
    """`*questions*{split}*.json` and `*annotations*{split}*.json` in a folder.

    Raises:
        InputError: for no such file, or several.
    """
    return SplitFiles(_only(folder, f"*questions*{split}*.json"), _only(folder, f"*annotations*{split}*.json"))


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise InputError(f"{folder}: expected one file like {pattern}, got {[path.name for path in found] or 'none'}")
    return found[0]


def read_scanqa(files: SplitFiles, find_views: FindViews | None, report: Report = raise_problem) -> list[QARecord]:
    """Rows {scene_id, question_id, question, answers}; `find_views` None: records without images.

    Raises:
        InputError: for a file that cannot be read. Rows go to `report` as `LeftOut`.
    """
    rows = _Rows(files.questions, report, find_views)
    return rows.records(read_entries(files.questions, ("data",)), lambda row: ("scanqa", row.get("answers")))


def read_sqa3d(files: SplitFiles, find_views: FindViews | None, report: Report = raise_problem) -> list[QARecord]:
    """Questions {question_id, scene_id, situation, question} joined with annotations {question_id, answers}.

    Raises:
        InputError: for a file that cannot be read. Rows, answers without question among them, go to `report`.
    """
    answers: dict[str, Any] = {}
    if files.annotations is not None:
        for number, entry in enumerate(read_entries(files.annotations, ("annotations",)), start=1):
            name = str(entry.value.get("question_id")) if isinstance(entry.value, dict) else ""
            if not name or name in answers:
                what = f"{files.annotations}, line {entry.line}, question_id: expected an id of its own, got {name!r}"
                what += f" (entry {number})"
                report(LeftOut("answers with the id of others", what))
                continue
            answers[name] = entry.value.get("answers")
    rows = _Rows(files.questions, report, find_views)
    used: set[str] = set()

    def answer_of(row: Mapping[str, Any]) -> tuple[str, object]:
        name = str(row.get("question_id"))
        used.add(name)
        return "sqa3d", answers.get(name)

    found = rows.records(read_entries(files.questions, ("questions",)), answer_of, is_answered=bool(answers))
    for name in answers.keys() - used:
        what = f"{files.annotations}: expected a question for each answer, got none with question_id {name}"
        report(LeftOut("answers without question", what))
    return found


class _Rows:
    """Rows of a file -> records."""

    def __init__(self, path: Path, report: Report, find_views: FindViews | None) -> None:
        self._path, self._report, self._find_views = path, report, find_views
        self._seen: set[str] = set()

    def records(
        self,
        entries: Sequence[Entry],
        answer_of: _AnswerOf,
        *,
        is_answered: bool = True,
    ) -> list[QARecord]:
        found = []
        for number, entry in enumerate(entries, start=1):
            try:
                found.append(self._record(number, entry, answer_of, is_answered=is_answered))
            except LeftOut as problem:
                self._report(problem)
        return found

    def _record(
        self,
        number: int,
        entry: Entry,
        answer_of: _AnswerOf,
        *,
        is_answered: bool,
    ) -> QARecord:
        def wrong(kind: str, key: str, message: str) -> LeftOut:
            where = f"{self._path}, line {entry.line}, {key}"  # whole files may be one line
            return LeftOut(kind, f"{where}: {message} (entry {number})")

        row = entry.value
        if not isinstance(row, dict):
            raise wrong("entries that are no objects", "record", f"expected an object, got {row!r}")
        task, answers = answer_of(row)
        name, scene, question = (word(row.get(key)) for key in ("question_id", "scene_id", "question"))
        for key, value in (("question_id", name), ("scene_id", scene), ("question", question)):
            if not value:
                raise wrong(f"records without {key}", key, "expected text, got none")
        if name in self._seen:
            raise wrong("records with the id of another", "question_id", f"expected an id of its own, got {name}")
        self._seen.add(name)
        texts = _texts(answers)
        if not texts and is_answered:
            raise wrong("records without answer", "answers", f"expected a list of texts, got {answers!r}")
        views = None
        if self._find_views is not None:
            views = self._find_views(scene)
            if views is None:
                raise wrong("questions about scenes without images", "scene_id", f"expected a scene, got none: {scene}")
        return QARecord(
            images=() if views is None else views.images,
            question=question,
            answers=texts,
            geometry=None if views is None else views.geometry,
            task=task,
            scene=scene,
            id=name,
            situation=word(row.get("situation")),
        )


def _texts(answers: object) -> tuple[str, ...]:
    """Of ScanQA's list of texts or SQA3D's list of objects."""
    if not isinstance(answers, list):
        return ()
    texts = [one.get("answer") if isinstance(one, dict) else one for one in answers]
    return tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())
