"""Train across scenes, for scenes never seen: python train_general.py --config configs/nerf/dtu_guided.txt"""

from geometry import one_line_errors
from training.cli import parse_options
from training.nerf.options import GeneralOptions
from training.nerf.runs import general_run


@one_line_errors
def main() -> None:
    """Options -> data and tasks -> fit."""
    general_run(parse_options(GeneralOptions, __doc__))


if __name__ == "__main__":
    main()
