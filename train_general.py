"""Train across scenes, for scenes never seen: python train_general.py --config configs/vggt_general.txt"""

from geometry import one_line_errors
from training.cli import parse_options
from training.nerf.build import build_data, build_general_task
from training.nerf.options import GeneralOptions
from training.trainer import fit


@one_line_errors
def main() -> None:
    """Options -> data + task -> fit."""
    options = parse_options(GeneralOptions, __doc__)
    data = build_data(options, is_per_scene=False)
    fit(options, build_general_task(options, data.trained_on), data)


if __name__ == "__main__":
    main()
