"""Records to train on and to validate with: whole scenes go to one or the other."""

import random
from collections.abc import Sequence

from data.problems import LeftOut, Report
from data.scene_qa.types import QARecord

VAL_RATIO, SPLIT_SEED = 0.1, 42
"""Share of the scenes to validate with; those of the VGGT-Qwen3 training guide."""


def split_by_scene(
    records: Sequence[QARecord], report: Report, ratio: float = VAL_RATIO, seed: int = SPLIT_SEED
) -> tuple[list[QARecord], list[QARecord]]:
    """Training and validation records; those without scene are in neither, since theirs could be in both.

    At least one scene goes to each side where there are two.
    """
    for record in records:
        if not record.scene:
            report(LeftOut("records without scene_id", f"record {record.id!r}: expected a scene_id, got none"))
    scenes = sorted({record.scene for record in records if record.scene})
    random.Random(seed).shuffle(scenes)
    count = min(max(1, round(ratio * len(scenes))), len(scenes) - 1) if len(scenes) > 1 and ratio > 0 else 0
    held_out = set(scenes[:count])
    train = [record for record in records if record.scene and record.scene not in held_out]
    return train, [record for record in records if record.scene in held_out]
