"""Train or evaluate forecasts of occupancy: python train_occupancy.py --config configs/occupancy/tiny_world.txt"""

from geometry import one_line_errors
from training.cli import parse_options
from training.occupancy.evaluation import evaluate
from training.occupancy.options import OccupancyOptions
from training.occupancy.runs import train_run


@one_line_errors
def main() -> None:
    """Options -> one of two things to do."""
    options = parse_options(OccupancyOptions, __doc__ or "")
    if options.eval_only:
        evaluate(options)
    else:
        train_run(options)


if __name__ == "__main__":
    main()
