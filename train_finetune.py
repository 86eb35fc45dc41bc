"""Fine-tune a model on one scene: python train_finetune.py --config configs/nerf/dtu_guided_finetune.txt"""

from geometry import one_line_errors
from training.cli import parse_options
from training.nerf.options import FinetuneOptions
from training.nerf.runs import finetune_run


@one_line_errors
def main() -> None:
    """Options -> data and tasks -> fit."""
    finetune_run(parse_options(FinetuneOptions, __doc__))


if __name__ == "__main__":
    main()
