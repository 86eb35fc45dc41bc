"""Train, evaluate or export VGGT: python train_vggt.py --config configs/vggt_nano.txt"""

from geometry import one_line_errors
from training.cli import parse_options
from training.vggt.evaluation import evaluate
from training.vggt.options import VGGTOptions
from training.vggt.runs import export_run, train_run


@one_line_errors
def main() -> None:
    """Options -> one of three things to do."""
    options = parse_options(VGGTOptions, __doc__)
    if options.export:
        export_run(options)
    elif options.eval_only:
        evaluate(options)
    else:
        train_run(options)


if __name__ == "__main__":
    main()
