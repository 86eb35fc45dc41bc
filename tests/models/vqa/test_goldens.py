"""Layout of text, Qwen3 with adapters, published projector and geometry tokens against their records."""

from pathlib import Path

import pytest

from tests import goldens

GOLDEN = Path(__file__).parents[2] / "golden" / "vqa"


@pytest.mark.parametrize("fixture", ["layout", "qwen3_tiny", "perceiver", "."])
def test_everything_equals_the_record(fixture: str) -> None:
    results = goldens.check_fixture(GOLDEN / fixture)
    assert results
    assert all(results.values())
    assert [(file, item) for file, items in results.items() for item in items if not item.is_within] == []


def test_every_recorded_case_and_array_is_compared() -> None:
    compared = {item.name for item in goldens.check_fixture(GOLDEN / "qwen3_tiny")["io.npz"]}
    recorded = set(goldens.read_arrays(GOLDEN / "qwen3_tiny" / "io.npz"))
    inputs = {"input_ids", "attention_mask", "labels", "visual", "prompt_ids", "prompt_mask", "image_id"}
    assert recorded - compared == {*inputs, "greedy_margin", "lora.max_abs_vs_merged"}
    names = [item.name for item in goldens.check_fixture(GOLDEN / "layout")["cases.json"]]
    assert sum("train" in name for name in names) == 4 * 10
    assert sum("label_tokens" in name for name in names) == 2
