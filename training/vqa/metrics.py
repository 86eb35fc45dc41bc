"""How good answers are: exact match, its lenient variant, token F1 and CIDEr; by task and by kind of question.

Answers are compared after the cleaning that papers on 3-D question answering share (Ma et al. 2023, SQA3D; Huang et
al. 2024, LEO), so that numbers can be set beside theirs.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data.problems import shortened
from data.scene_qa.types import QARecord
from geometry import InputError

_SPELLING = {
    "letf": "left",
    "let": "left",
    "rigth": "right",
    "rght": "right",
    "tehre": "there",
    "behine": "behind",
    "chai": "chair",
    "wasing": "washing",
    "waslked": "walked",
    "tv": "TV",
    "oclock": "o'clock",
    "none": "zero",
}
_UP_TO_NINE = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_UP_TO_NINETEEN = ("ten", "eleven", "twelve", *(f"{stem}teen" for stem in ("thir", "four", "fif", "six", "seven")))
_NUMBERS = (*_UP_TO_NINE, *_UP_TO_NINETEEN, "eighteen", "nineteen", "twenty")
_WORDS = _SPELLING | {str(number): word for number, word in enumerate(_NUMBERS)} | {"23": "twenty-three"}
_WORD = re.compile(rf"\b({'|'.join(sorted(_WORDS, key=len, reverse=True))})\b")
_REFUSED = re.compile(r"[^a-z0-9,'\s\-:]+")
_CLOCK = re.compile(r"\bo' +clock\b")
_NUMBERED = re.compile(r"\b([a-zA-Z]+)[0-9]\b")
_ARTICLES = [re.compile(rf"\b{article}\b ([a-zA-Z]+)") for article in ("a", "an", "the")]
_SQUAD_ARTICLES = re.compile(r"\b(a|an|the)\b")
QUESTION_WORDS = ("what", "is", "how", "can", "which")
"""SQA3D's kinds of questions, by first word; others are "other"."""
CIDER_NGRAMS, CIDER_SIGMA, CIDER_SCALE = 4, 6.0, 10.0
"""Longest n-gram, width of the length penalty, and factor of CIDEr-D (Vedantam et al. 2015, equation 3)."""


def cleaned(text: str) -> str:
    """Lower case, known misspellings, numbers as words, articles and punctuation dropped; order of steps as shared."""
    text = re.sub(" {2,}", " ", text.lower().strip(" "))
    text = _REFUSED.sub("", re.sub(r"\. {2,}", ". ", text))
    text = _CLOCK.sub("o'clock", _WORD.sub(lambda match: _WORDS[match[1]], text))
    text = _NUMBERED.sub(r"\1", text)
    for article in _ARTICLES:
        text = article.sub(r"\1", text)
    return re.sub(r"\bbackwards\b", "backward", text)


def exact_match(prediction: str, references: Sequence[str]) -> bool:
    """The cleaned prediction is any of the cleaned references."""
    return cleaned(prediction) in {cleaned(reference) for reference in references}


def refined_match(prediction: str, references: Sequence[str]) -> bool:
    """`exact_match`, or one contains the other without spaces ("up" matches "cup"); nothing matches no text."""
    if exact_match(prediction, references):
        return True
    mine = "".join(cleaned(prediction).split())
    theirs = ["".join(cleaned(reference).split()) for reference in references]
    return any(mine and other and (mine in other or other in mine) for other in theirs)


def squad_normalized(text: str) -> str:
    """Lower case without punctuation and articles (Rajpurkar et al. 2016)."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(_SQUAD_ARTICLES.sub(" ", text).split())


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of words, best over the references."""
    return max((_f1(squad_normalized(prediction), squad_normalized(one)) for one in references), default=0.0)


def _f1(prediction: str, reference: str) -> float:
    mine, theirs = prediction.split(), reference.split()
    if not mine or not theirs:
        return float(mine == theirs)
    common = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * common / (len(mine) + len(theirs))


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each prediction; how rare an n-gram is counts over the references of all.

    A single right word scores 2.5, not 10: it has no longer n-grams.
    """
    grams = [[_ngrams(reference) for reference in group] for group in references]
    documents = Counter(gram for group in grams for gram in {gram for one in group for gram in one})
    log_count = math.log(max(1, len(references)))
    rarity = {gram: log_count - math.log(count) for gram, count in documents.items()}
    scores = []
    for prediction, group in zip(predictions, grams, strict=True):
        mine = _Vector(_ngrams(prediction), rarity, log_count)
        each = [mine.similarity(_Vector(one, rarity, log_count)) for one in group]
        scores.append(CIDER_SCALE * sum(each) / max(1, len(each)))
    return scores


def _ngrams(text: str) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(
        tuple(words[start : start + size])
        for size in range(1, CIDER_NGRAMS + 1)
        for start in range(len(words) - size + 1)
    )


class _Vector:
    """n-grams weighted by frequency and rarity, by their length."""

    def __init__(self, counts: Counter[tuple[str, ...]], rarity: Mapping[tuple[str, ...], float], unseen: float):
        self.weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(CIDER_NGRAMS)]
        for gram, count in counts.items():
            self.weights[len(gram) - 1][gram] = count * rarity.get(gram, unseen)
        self.norms = [math.sqrt(sum(weight**2 for weight in part.values())) for part in self.weights]
        self.length = sum(count for gram, count in counts.items() if len(gram) == 2)
        """In bigrams, as the reference implementation (pycocoevalcap) counts."""

    def similarity(self, reference: "_Vector") -> float:
        total = 0.0
        for mine, theirs, norm, other in zip(self.weights, reference.weights, self.norms, reference.norms, strict=True):
            dot = sum(min(weight, theirs.get(gram, 0.0)) * theirs.get(gram, 0.0) for gram, weight in mine.items())
            total += dot / (norm * other) if norm and other else 0.0
        difference = self.length - reference.length
        return total / CIDER_NGRAMS * math.exp(-(difference**2) / (2 * CIDER_SIGMA**2))


@dataclass(frozen=True)
class AnswerScores:
    """Means over the answers of a group."""

    count: int
    em: float
    """Share of exact matches: the headline."""
    em_refined: float
    """Lenient; for comparison with papers that report it."""
    f1: float
    cider: float


@dataclass(frozen=True)
class Answered:
    """A record and the answer that a model gave."""

    record: QARecord
    prediction: str


def join(records: Sequence[QARecord], predictions: Iterable[tuple[str, str]]) -> list[Answered]:
    """Records with their (id, answer), in the order of the records.

    Raises:
        InputError: for ids that are missing, unknown or given twice, on either side.
    """
    given: dict[str, str] = {}
    twice = []
    for name, text in predictions:
        if name in given:
            twice.append(name)
        given[name] = text
    names = Counter(record.id for record in records)
    wrong = {
        "records with the id of another": [name for name, count in names.items() if count > 1],
        "answers given twice": twice,
        "records without answer": [name for name in names if name not in given],
        "answers to no record": [name for name in given if name not in names],
    }
    found = [f"{len(ids)} {what} ({shortened(ids)})" for what, ids in wrong.items() if ids]
    if found:
        raise InputError(f"predictions: expected one answer for each record, got {'; '.join(found)}")
    return [Answered(record, given[record.id]) for record in records]


def groups_of(record: QARecord) -> list[str]:
    """Groups whose means are reported: all, its task, its kind of question, and what view 1 cannot tell."""
    first = (record.question.split() or [""])[0].lower().strip(string.punctuation)
    groups = ["all", f"task/{record.task}", f"question/{first if first in QUESTION_WORDS else 'other'}"]
    return groups + (["later_views"] if record.evidence and min(record.evidence) > 0 else [])


def scores_by_group(answered: Sequence[Answered]) -> dict[str, AnswerScores]:
    """Means of all metrics; CIDEr's rarities are those of all answers together."""
    references = [[cleaned(text) for text in one.record.answers] for one in answered]
    each_cider = cider([cleaned(one.prediction) for one in answered], references)
    rows: dict[str, list[tuple[float, ...]]] = {}
    for one, its_cider in zip(answered, each_cider, strict=True):
        answers = one.record.answers
        matches = (exact_match(one.prediction, answers), refined_match(one.prediction, answers))
        row = (*map(float, matches), token_f1(one.prediction, answers), its_cider)
        for group in groups_of(one.record):
            rows.setdefault(group, []).append(row)
    return {
        group: AnswerScores(len(found), *(sum(column) / len(found) for column in zip(*found, strict=True)))
        for group, found in sorted(rows.items())
    }


@dataclass(frozen=True)
class MajorityAnswer:
    """The best constant answer to a group."""

    answer: str
    em: float


def majority_by_group(records: Sequence[QARecord]) -> dict[str, MajorityAnswer]:
    """The answer that is right most often in each group of the evaluated records themselves."""
    counts: dict[str, Counter[str]] = {}
    sizes: Counter[str] = Counter()
    for record in records:
        for group in groups_of(record):
            sizes[group] += 1
            counts.setdefault(group, Counter()).update({cleaned(text) for text in record.answers})
    found = {}
    for group, answers in sorted(counts.items()):
        answer, count = min(answers.items(), key=lambda item: (-item[1], item[0]))
        found[group] = MajorityAnswer(answer, count / sizes[group])
    return found


def mentioned_by_group(records: Sequence[QARecord]) -> dict[str, float]:
    """Exact match of answers that follow from the wording: of all answers to a task the first that its question names.

    Where it names none, the task's majority answer. Of "which is nearer, the red ball or the blue box?" every second
    one is right, though each name is rare among all answers.
    """
    majority = majority_by_group(records)
    known: dict[str, set[str]] = {}
    for record in records:
        known.setdefault(record.task, set()).update(cleaned(text) for text in record.answers)
    right: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for record in records:
        question = f" {cleaned(record.question)} "
        named = {question.find(f" {answer} "): answer for answer in known[record.task] if f" {answer} " in question}
        guess = named[min(named)] if named else majority[f"task/{record.task}"].answer
        for group in groups_of(record):
            sizes[group] += 1
            right[group] += exact_match(guess, record.answers)
    return {group: right[group] / size for group, size in sorted(sizes.items())}


def mean_over_tasks(scores: Mapping[str, AnswerScores]) -> float:
    """Mean of the tasks' exact match, each counting alike."""
    tasks = [one.em for group, one in scores.items() if group.startswith("task/")]
    return sum(tasks) / max(1, len(tasks))


def require_scorable(records: Sequence[QARecord]) -> None:
    """Before hours of answering: every record has an id of its own and references.

    Raises:
        InputError: naming those that have not.
    """
    counts = Counter(record.id for record in records)
    wrong = {
        "ids": ["''" for record in records if not record.id],
        "an id of their own": [name for name, count in counts.items() if name and count > 1],
        "references": [record.id for record in records if not record.answers],
    }
    for what, names in wrong.items():
        if names:
            raise InputError(f"expected {what} for all records, got none for {len(names)}: {shortened(names)}")


def report(records: Sequence[QARecord], runs: Mapping[str, Iterable[tuple[str, str]]]) -> dict[str, Any]:
    """Everything for `metrics.json`: trivial answers, and scores of each run (name -> (id, answer)) by group.

    Raises:
        InputError: as `join`, and for records without references, naming the run.
    """
    require_scorable(records)
    majority = {group: asdict(one) for group, one in majority_by_group(records).items()}
    found: dict[str, Any] = {"majority": majority, "mentioned": mentioned_by_group(records), "runs": {}}
    for name, predictions in runs.items():
        try:
            scores = scores_by_group(join(records, predictions))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        groups = {group: asdict(one) for group, one in scores.items()}
        found["runs"][name] = {"mean_over_tasks": mean_over_tasks(scores), "groups": groups}
    return found
