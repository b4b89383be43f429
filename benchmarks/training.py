"""How many images a second are trained on: here, by the peers, and by the processor's limit.

``python -m benchmarks.training --repdistiller CHECKOUT`` measures all contenders in one run, on the
same images, networks, weights and batch size, and writes a table and a JSON file. Each contender
lives in a process of its own and waits while another computes; a round lets every one of them take
some steps in turn, so that a slow moment of the machine meets all. ``docs/benchmarks.md`` says how
to read the result.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import collect, summarize_pair
from benchmarks.measure import PAIRS, measure_pair, prepare_pair, profile_pair
from benchmarks.page import markdown, write_section
from benchmarks.rows import limit_rows, our_rows, peer_rows
from models.errors import InputError
from stages.data.arrays import DATA_FOLDER, load_data
from stages.files import write_json


def run(arguments: argparse.Namespace) -> None:
    """Measure, or profile, all pairs.

    Raises:
        InputError: the data or a peer are not where they were said to be, or a contender failed.
    """
    data = load_data(arguments.data)
    data.split("train")
    rows = our_rows()
    if not arguments.profile:
        rows |= peer_rows(arguments.repdistiller, arguments.torchdistill_python)
    results = {}
    for name in arguments.pairs:
        with tempfile.TemporaryDirectory(prefix="ackd-benchmark-") as folder:
            pair = prepare_pair(name, data, Path(folder))
            if arguments.profile:
                profile_pair(pair, arguments.steps)
                continue
            contenders = limit_rows() | rows
            measured, warm_up = measure_pair(pair, contenders, arguments.rounds, arguments.steps)
        results[name] = summarize_pair(pair.facts, rows, measured, warm_up)
    if arguments.profile:
        return
    content = collect(results, pair.facts, arguments.rounds)
    write_json(arguments.output, content)
    print(markdown(content))
    write_section(arguments.page, "training", markdown(content))


def main(argv: Sequence[str] | None = None) -> None:
    """As a command; a user's mistake is one sentence and status 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument(
        "--repdistiller", type=Path, metavar="FOLDER", help="a checkout of RepDistiller"
    )
    parser.add_argument(
        "--torchdistill-python",
        metavar="PYTHON",
        help="an interpreter that has torchdistill besides this project's packages",
    )
    parser.add_argument(
        "--pairs", nargs="+", default=PAIRS, metavar="TEACHER-STUDENT", help="default: %(default)s"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=DATA_FOLDER,
        metavar="FOLDER",
        help="the images, as the stage prepare_data writes them (default: %(default)s)",
    )
    parser.add_argument("--rounds", type=positive, default=5, help="default: %(default)s")
    parser.add_argument(
        "--steps",
        type=positive,
        help="of each contender in a round (default: as many as take about 2.5 seconds)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/training.json"), metavar="FILE"
    )
    parser.add_argument(
        "--page",
        type=Path,
        default=Path("docs/benchmarks.md"),
        metavar="FILE",
        help="where the table goes, between two marker lines (default: %(default)s)",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="print where the time of our own steps goes instead, and write nothing",
    )
    arguments = parser.parse_args(argv)
    if arguments.repdistiller is None and not arguments.profile:
        parser.error("--repdistiller is needed, unless --profile is given")
    try:
        run(arguments)
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def positive(text: str) -> int:
    """A number of 1 or more, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


if __name__ == "__main__":
    main()
