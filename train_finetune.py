"""Fine-tune a general checkpoint on one scene: python train_finetune.py --config configs/vggt_finetune.txt"""

from geometry import one_line_errors
from training.cli import parse_options
from training.nerf.build import build_data, build_finetune_task
from training.nerf.options import FinetuneOptions
from training.trainer import fit


@one_line_errors
def main() -> None:
    """Options -> data + task -> fit."""
    options = parse_options(FinetuneOptions, __doc__)
    data = build_data(options, is_per_scene=True)
    fit(options, build_finetune_task(options, *data.train_scenes.values()), data)


if __name__ == "__main__":
    main()
