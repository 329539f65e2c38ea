"""Makes and measures the model: `python -m tools.shapes_vl train|lora|evaluate|check --help`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

REPOSITORY = Path(__file__).parents[2]
SERVED = REPOSITORY / "model_repository" / "shapes_vl" / "1"


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.shapes_vl", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser(
        "train",
        help="train the model from random weights",
        description="Train the model from random weights, or go on with a trained one. On one H100 or H200 with 16 CPU "
        "cores the default takes eight minutes and half a minute of compiling. A CPU with two cores would need two "
        "weeks for as many images: there, try the machinery with --steps 20, which takes two minutes.",
    )
    train.set_defaults(run=_train)
    train.add_argument("--begin", type=Path, help="folder of a model to go on with, instead of random weights")
    _training(train, seconds=480, out=SERVED / "weights")
    lora = commands.add_parser(
        "lora",
        help="train an adapter for a trained model",
        description="Train the adapter zh (answers in Chinese) or caps (answers in capitals). A minute each on a GPU; "
        "a CPU with two cores needs half a day for as many images.",
    )
    lora.set_defaults(run=_lora)
    lora.add_argument("adapter", choices=("zh", "caps"))
    lora.add_argument("--base", type=Path, default=SERVED / "weights", help="folder of the trained model")
    _training(lora, seconds=35, out=None)
    evaluate = commands.add_parser(
        "evaluate",
        help="measure exact answers per skill and size",
        description="Measure exact answers on unseen images. A GPU with 16 CPU cores takes half a minute for 120 "
        "questions in each cell of the table, two CPU cores half a minute or more for each.",
    )
    evaluate.set_defaults(run=_evaluate)
    _common(evaluate)
    evaluate.add_argument("--model", type=Path, default=SERVED / "weights", help="folder of the trained model")
    evaluate.add_argument("--adapter", type=Path, help="folder of an adapter to measure")
    evaluate.add_argument("--answers", choices=("plain", "zh", "caps"), default="plain", help="what to expect")
    evaluate.add_argument("--count", type=int, default=100, help="questions in each cell (default: %(default)s)")
    evaluate.add_argument("--json", type=Path, help="also write the figures to this file")
    check = commands.add_parser("check", help="compare with transformers, on the CPU, in a minute")
    check.set_defaults(run=_check)
    check.add_argument("--model", type=Path, default=SERVED / "weights", help="folder of the trained model")
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device)
    parser.add_argument("--workers", type=int, help="processes that draw (default: one less than there are cores)")


def _training(parser: argparse.ArgumentParser, seconds: float, out: Path | None) -> None:
    _common(parser)
    parser.add_argument("--out", type=Path, default=out, required=out is None, help="folder to write to")
    parser.add_argument("--seconds", type=float, default=seconds, help="length of the training (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=0, help="end after so many steps, if that is sooner")
    parser.add_argument("--seed", type=int, default=0)


def _workers(options: argparse.Namespace) -> int:
    return max(1, (os.cpu_count() or 2) - 1) if options.workers is None else int(options.workers)


def _train(options: argparse.Namespace) -> None:
    from tools.shapes_vl.train import Plan, train_model

    plan = Plan(
        options.device,
        options.seconds,
        options.steps,
        options.seed,
        _workers(options),
        learning_rate=1.5e-3 if options.begin is None else 1e-3,
        curriculum_from=0.0 if options.begin is None else 0.4,
    )
    train_model(plan, options.out, options.begin)


def _lora(options: argparse.Namespace) -> None:
    from tools.shapes_vl.lora import train_adapter
    from tools.shapes_vl.train import Plan

    plan = Plan(
        options.device,
        options.seconds,
        options.steps,
        options.seed,
        _workers(options),
        learning_rate=2e-3,
        weight_decay=0.0,
        curriculum_from=0.4,
    )
    train_adapter(plan, options.base, options.adapter, options.out)


def _evaluate(options: argparse.Namespace) -> None:
    from tools.shapes_vl.evaluate import evaluate, save_results, table

    results = evaluate(
        options.model, options.device, options.count, options.adapter, options.answers, _workers(options)
    )
    if options.json:
        save_results(results, options.json)
    print(table(results))


def _check(options: argparse.Namespace) -> None:
    from tools.shapes_vl.check import check

    print("\n".join(check(options.model)))


if __name__ == "__main__":
    main()
