"""The commands of build.py: what each is called, takes and does."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.installer import backends, compatibility, doctor, environment, locks, server, testing
from tools.installer import demo as demonstration
from tools.installer import serve as serving
from tools.installer.console import Progress
from tools.installer.paths import DEFAULT_REPOSITORY


@dataclass(frozen=True)
class Command:
    """One subcommand."""

    name: str
    summary: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def _environment_arguments(parser: argparse.ArgumentParser) -> None:
    flavour = "default: $VLLM_CUSTOM_FLAVOUR, else cuda where an NVIDIA GPU answers, else cpu"
    parser.add_argument("--flavour", choices=locks.FLAVOURS, help=flavour)
    python = "the Python 3.11 or 3.12 to build on (default: $VLLM_CUSTOM_PYTHON, else the running one, else from PATH)"
    parser.add_argument("--python", metavar="PYTHON", help=python)


def prepare(options: argparse.Namespace, progress: Progress) -> environment.Environment:
    """What every command that runs something needs: the environment and the backends folder."""
    ready = environment.ensure(progress, options.flavour, options.python)
    backends.assemble(ready)
    return ready


def install(options: argparse.Namespace) -> int:
    progress = Progress()
    ready = prepare(options, progress)
    progress.step(f"ready: {ready.folder} (torch: {ready.facts['torch']})")
    return 0


def lock(options: argparse.Namespace) -> int:
    locks.write_locks(Progress())
    return 0


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    _environment_arguments(parser)
    parser.add_argument(
        "--model-repository",
        type=Path,
        default=DEFAULT_REPOSITORY,
        metavar="FOLDER",
        help="default: model_repository beside build.py, of which only shapes_vl is loaded",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on (default: 127.0.0.1; 0.0.0.0 takes all of this machine's)",
    )
    for service, port in (("http", 8000), ("grpc", 8001), ("metrics", 8002)):
        explanation = f"default: {port}; 0 takes a free one"
        parser.add_argument(f"--{service}-port", type=int, default=port, metavar="PORT", help=explanation)


def serve(options: argparse.Namespace) -> int:
    progress = Progress()
    ready = prepare(options, progress)
    triton = server.TritonServer(
        options.model_repository,
        environment=ready,
        models=serving.models_of(options.model_repository, options.passed_on),
        host=options.host,
        http_port=options.http_port,
        grpc_port=options.grpc_port,
        metrics_port=options.metrics_port,
        extra=options.passed_on,
    )
    progress.step("starting tritonserver")
    return serving.run(triton, lambda it: print(serving.banner(it), file=sys.stderr, flush=True))


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    _environment_arguments(parser)
    parser.add_argument("--seed", type=int, default=10, metavar="NUMBER", help="another picture (default: 10)")


def demo(options: argparse.Namespace) -> int:
    progress = Progress()
    return demonstration.run(prepare(options, progress), progress, options.seed, options.passed_on)


def _test_arguments(parser: argparse.ArgumentParser) -> None:
    _environment_arguments(parser)
    parser.add_argument(
        "pytest", nargs="*", metavar="ARGUMENT", help="for pytest, which then runs alone (options after --)"
    )


def test(options: argparse.Namespace) -> int:
    progress = Progress()
    return testing.run(prepare(options, progress), progress, [*options.pytest, *options.passed_on])


def _compatibility_arguments(parser: argparse.ArgumentParser) -> None:
    _environment_arguments(parser)
    parser.add_argument(
        "sources", type=Path, metavar="FOLDER", help="holds a folder for each release, with model.py or src/model.py"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="RELEASE", help="names of these folders, or stand-in")


def try_compatibility(options: argparse.Namespace) -> int:
    progress = Progress()
    return compatibility.run(prepare(options, progress), progress, options.sources, options.only)


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    _environment_arguments(parser)
    parser.add_argument("--json", action="store_true", help="the findings for a program to read")


def diagnose(options: argparse.Namespace) -> int:
    return doctor.run(options.flavour, options.python, options.json)


COMMANDS = (
    Command(
        "install",
        "make the environment and the backends folder",
        "Install tritonserver, vLLM and what the tests need, from the lock, and assemble build/backends.",
        _environment_arguments,
        install,
    ),
    Command(
        "serve",
        "run tritonserver in the foreground",
        "Run tritonserver on a model repository until Ctrl-C or SIGTERM. Of the default repository only shapes_vl is\n"
        "loaded; another one is loaded whole. What follows `--` is passed to tritonserver.",
        _serve_arguments,
        serve,
    ),
    Command(
        "demo",
        "show a picture to a real server and check what it says",
        "Install what is missing, serve shapes_vl on free ports, send it a picture and a question through generate\n"
        "and generate_stream, show them with the answers, and stop. Exits with 0 only where both answers are right.",
        _demo_arguments,
        demo,
    ),
    Command(
        "test",
        "run ruff, mypy and the tests",
        "Install what is missing, then run ruff, mypy and pytest. With arguments only pytest runs:\n"
        "    build.py test tests/unit\n"
        "    build.py test -- -k stream -x",
        _test_arguments,
        test,
    ),
    Command(
        "doctor",
        "say what is installed, what is wrong and how to mend it",
        "Look at the system, the environment and the machine, and change nothing. Exits with 1 where something fails.",
        _doctor_arguments,
        diagnose,
    ),
    Command(
        "compatibility",
        "run the shared server tests on official releases",
        "Run the shared server tests on the stand-in and on each official release in a folder, and write what\n"
        "happened into docs/compatibility.md. A release is a folder of its name with the official backend's src:\n"
        "    git -C vllm_backend archive r26.01 src | tar x -C releases/r26.01",
        _compatibility_arguments,
        try_compatibility,
    ),
    Command("lock", "resolve the dependencies anew", "Write locks/ from pyproject.toml.", lambda parser: None, lock),
)
