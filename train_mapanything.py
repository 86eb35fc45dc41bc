"""Train or evaluate multi-view reconstruction: python train_mapanything.py --config configs/mapanything/rooms.txt"""

from geometry import one_line_errors
from training.cli import parse_options
from training.mapanything.evaluation import evaluate
from training.mapanything.options import MapAnythingOptions
from training.mapanything.runs import export_run, train_run


@one_line_errors
def main() -> None:
    """Options -> one of three things to do."""
    options = parse_options(MapAnythingOptions, __doc__)
    if options.export:
        export_run(options)
    elif options.eval_only:
        evaluate(options)
    else:
        train_run(options)


if __name__ == "__main__":
    main()
