"""Train or evaluate answers to questions about scenes: python train_vqa.py --config configs/vqa/tiny_rooms.txt"""

from geometry import one_line_errors
from training.cli import parse_options
from training.vqa.evaluation import evaluate
from training.vqa.options import VQAOptions
from training.vqa.runs import export_run, merge_run, train_run


@one_line_errors
def main() -> None:
    """Options -> one of four things to do."""
    options = parse_options(VQAOptions, __doc__)
    if options.export:
        export_run(options)
    elif options.merge:
        merge_run(options)
    elif options.eval_only:
        evaluate(options)
    else:
        train_run(options)


if __name__ == "__main__":
    main()
