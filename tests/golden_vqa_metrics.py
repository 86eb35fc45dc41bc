"""Recorded metrics of answers, boxes and actions, for `tests.goldens`: a folder with `metrics.json`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from geometry import InputError
from tests.golden_comparison import Comparison, compared
from training.vqa.actions import IOU_LEVELS, box_iou, center_error, extent_error, normal_error, parse_action
from training.vqa.metrics import cider, cleaned, exact_match, refined_match, squad_normalized, token_f1

METRICS_FILE = "metrics.json"
TOLERANCE = 1e-9
"""Of sums and quotients of a few float64 numbers; angles near 0 are rounded at their square root."""
_ANGLE_TOLERANCE = 1e-5


def kind_of(folder: Path) -> Callable[[Path], dict[str, list[Comparison]]] | None:
    """The check of a folder with recorded metrics; None for another folder."""
    path = folder / METRICS_FILE
    return check_metrics if path.is_file() and "cases" in _read(path) else None


def check_metrics(folder: Path) -> dict[str, list[Comparison]]:
    """Every recorded number."""
    record = _read(folder / METRICS_FILE)
    results = _texts(record["cases"], record.get("mean", {}))
    results += _boxes(record)
    if "actions" in record:
        results += _actions(record["actions"])
    return {METRICS_FILE: results}


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"fixture {path} is not valid JSON: {error}") from None
    return value if isinstance(value, dict) else {}


def _equal(name: str, expected: Any, got: Any) -> Comparison:
    return Comparison(name, float(expected != got), "equal", expected == got)


def _texts(cases: list[dict[str, Any]], means: dict[str, float]) -> list[Comparison]:
    ciders = cider(
        [cleaned(case["prediction"]) for case in cases],
        [[cleaned(one) for one in case["references"]] for case in cases],
    )
    results, columns = [], {"em": [], "em_refined": [], "f1": [], "cider": ciders}
    for number, (case, its_cider) in enumerate(zip(cases, ciders, strict=True)):
        text, references = case["prediction"], case["references"]
        got = {
            "clean_prediction": cleaned(text),
            "clean_references": [cleaned(one) for one in references],
            "squad_prediction": squad_normalized(text),
            "em": int(exact_match(text, references)),
            "em_refined": int(refined_match(text, references)),
        }
        results += [_equal(f"{number} {name}", case[name], value) for name, value in got.items() if name in case]
        numbers = {"f1": token_f1(text, references), "cider": its_cider}
        results += [
            compared(f"{number} {name}", np.array(case[name]), np.array(value), absolute=TOLERANCE)
            for name, value in numbers.items()
            if name in case
        ]
        for name in ("em", "em_refined"):
            columns[name].append(got[name])
        columns["f1"].append(numbers["f1"])
    return results + [
        compared(f"mean {name}", np.array(value), np.array(np.mean(columns[name])), absolute=TOLERANCE)
        for name, value in means.items()
    ]


def _boxes(record: dict[str, Any]) -> list[Comparison]:
    cases = record.get("box_iou", [])
    got = [box_iou(case["a"], case["b"]) for case in cases]
    results = [
        compared(f"box {number} iou", np.array(case["iou"]), np.array(value), absolute=TOLERANCE)
        for number, (case, value) in enumerate(zip(cases, got, strict=True))
    ]
    for level in IOU_LEVELS:
        name = f"acc_at_{level:g}"
        if name in record:
            share = np.mean([value >= level for value in got])
            results.append(compared(name, np.array(record[name]), share, absolute=TOLERANCE))
    return results


def _actions(record: dict[str, Any]) -> list[Comparison]:
    reference = parse_action(json.dumps(record["reference"]))
    results = []
    for case in record["cases"]:
        name = f"action {case['name']}"
        try:
            action = parse_action(case["text"])
        except InputError:
            action = None
        results.append(_equal(f"{name} valid", case["valid"], action is not None))
        errors = {"center_error_m": center_error, "normal_error_deg": normal_error, "extent_error": extent_error}
        for key, error in errors.items():
            if action is not None and key in case:
                limit = _ANGLE_TOLERANCE if key.startswith("normal") else TOLERANCE
                got = np.array(error(action, reference))
                results.append(compared(f"{name} {key}", np.array(case[key]), got, absolute=limit))
    return results
