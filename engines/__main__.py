"""Look at what the engines make of a model.

    python -m engines show cnn                                  # the graph: traced, differentiated, each pass, source
    python -m engines show cnn --engine tape --html record.html
    python -m engines show my.models:WORKLOAD                   # any object with task(quantity, batch_size)

Exit codes: 0 shown, 2 bad usage, 4 no such workload, 5 the engine refuses the model, 12 the file cannot be written, 130
interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from engines.engine import Task
from engines.interrupt import forget_interrupt
from engines.registry import UnknownWorkloadError, load_workload
from engines.show import Box, as_html, as_svg, show_channels_last, show_graph, show_tape
from engines.value import EngineError

SHOWN, UNKNOWN, REFUSED, UNWRITABLE, INTERRUPTED = 0, 4, 5, 12, 130
ENGINES: Mapping[str, Callable[[Task], tuple[str, list[Box]]]] = {
    "graph": show_graph,
    "graph_channels_last": show_channels_last,
    "tape": show_tape,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code; prints text, or one line of error on stderr."""
    options = _parser().parse_args(arguments)
    try:
        return _show(options)
    except KeyboardInterrupt:
        forget_interrupt()
        return _fail(INTERRUPTED, "interrupted")


def _show(options: argparse.Namespace) -> int:
    try:
        workload = load_workload(options.workload)
    except UnknownWorkloadError as error:
        return _fail(UNKNOWN, str(error))
    try:
        text, boxes = ENGINES[options.engine](workload.task(options.quantity, options.batch))
    except EngineError as error:
        return _fail(REFUSED, str(error))
    title = f"{options.workload} ({options.quantity}, batch {options.batch}) on the {options.engine}"
    try:
        if options.html is not None:
            options.html.write_text(as_html(title, text, boxes), encoding="utf-8")
        if options.svg is not None:
            options.svg.write_text(as_svg(boxes), encoding="utf-8")
    except OSError as error:
        return _fail(UNWRITABLE, f"{error.filename}: {error.strerror}; name a file that can be written")
    sys.stdout.write(text)
    return SHOWN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engines", description="Look at what the engines make of a model.")
    show = parser.add_subparsers(required=True).add_parser(
        "show",
        help="print a graph through its passes, or a tape's record",
        epilog="exit codes: 0 shown, 2 bad usage, 4 no such workload, 5 refused by the engine, 12 file not writable, "
        "130 interrupted",
    )
    show.add_argument("workload", help="a name such as cnn, or module:attribute")
    show.add_argument("--engine", choices=list(ENGINES), default="graph", help="(%(default)s)")
    show.add_argument(
        "--quantity", choices=["forward", "loss_and_grad", "step"], default="loss_and_grad", help="(%(default)s)"
    )
    show.add_argument("--batch", type=_positive, default=64, metavar="SIZE", help="(%(default)s)")
    show.add_argument("--html", type=Path, metavar="FILE", help="also write a page with text and drawing")
    show.add_argument("--svg", type=Path, metavar="FILE", help="also write the drawing")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, found {text!r}")
    return int(text)


def _fail(code: int, text: str) -> int:
    sys.stderr.write(f"python -m engines: {' '.join(text.split())}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
