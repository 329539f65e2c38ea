"""What the commands of build.py take, and do."""

import argparse
import math
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from tools.installer import (
    backends,
    compatibility,
    doctor,
    environment,
    frontend,
    into,
    locks,
    ports,
    server,
    site,
    supervise,
    testing,
    together,
)
from tools.installer import demo as demonstration
from tools.installer import serve as serving
from tools.installer.console import BuildError, Progress
from tools.installer.paths import DEFAULT_REPOSITORY


class _OlderVllm(argparse.Action):
    """A version of vLLM, which says the flavour."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        namespace.flavour = locks.flavour_of(values)


def _environment_arguments(parser: argparse.ArgumentParser) -> None:
    flavour = "default: $VLLM_CUSTOM_FLAVOUR, else cuda where nvidia-smi lists a GPU, else cpu"
    parser.add_argument("--flavour", choices=locks.FLAVOURS, help=flavour)
    vllm = "an older version of vLLM, on the CPU, as containers have it (default: the one that is in pyproject.toml)"
    parser.add_argument("--vllm", action=_OlderVllm, dest="flavour", choices=locks.OLDER, help=vllm)
    python = "the Python 3.11 or 3.12 to build on (default: $VLLM_CUSTOM_PYTHON, else the running one, else from PATH)"
    parser.add_argument("--python", metavar="PYTHON", help=python)


def prepare(options: argparse.Namespace, progress: Progress) -> environment.Environment:
    """What every command that runs something needs: the environment and the backends folder."""
    ready = environment.ensure(progress, options.flavour, options.python)
    backends.assemble(ready)
    return ready


def install_arguments(parser: argparse.ArgumentParser) -> None:
    _environment_arguments(parser)
    into_tree = parser.add_argument_group("into an existing installation of Triton (a container, or bare metal)")
    into_tree.add_argument("--into", type=Path, metavar="FOLDER", help="the installation, e.g. /opt/tritonserver")
    into_tree.add_argument(
        "--stand-in", action="store_true", help="also install the stand-in where there is no vLLM backend"
    )
    into_tree.add_argument(
        "--backend-from", type=Path, metavar="FOLDER", help="copy further backends from this installation of Triton"
    )
    into_tree.add_argument(
        "--backends", nargs="+", default=[], metavar="NAME", help="which of them (default: all that are missing)"
    )
    into_tree.add_argument("--uninstall", action="store_true", help="undo an installation")
    into_tree.add_argument("--dry-run", action="store_true", help="check and report, without changing anything")


def install(options: argparse.Namespace) -> int:
    if options.into is not None:
        return _install_into(options)
    for name in ("stand_in", "backend_from", "backends", "uninstall", "dry_run"):
        if getattr(options, name):
            raise BuildError(f"--{name.replace('_', '-')} needs --into", "name the installation of Triton")
    progress = Progress()
    ready = prepare(options, progress)
    progress.step(f"ready: {ready.folder} (torch: {ready.facts['torch']})")
    return 0


def _install_into(options: argparse.Namespace) -> int:
    wanted = into.InstallOptions(
        root=options.into,
        python=options.python or "python3",
        stand_in=options.stand_in,
        backend_from=options.backend_from,
        backends=tuple(options.backends),
        dry_run=options.dry_run,
    )
    return into.uninstall(wanted) if options.uninstall else into.install(wanted)


def lock_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--older", action="store_true", help="those of the older versions of vLLM instead")


def lock(options: argparse.Namespace) -> int:
    locks.write_locks(Progress(), list(map(locks.flavour_of, locks.OLDER)) if options.older else locks.FLAVOURS)
    return 0


def serve_arguments(parser: argparse.ArgumentParser) -> None:
    _environment_arguments(parser)
    parser.add_argument(
        "--model-repository",
        type=Path,
        default=DEFAULT_REPOSITORY,
        metavar="FOLDER",
        help="default: the models that come with it, of which only shapes_vl is loaded",
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
    openai = "also serve OpenAI's API on this port (default: not; 0 takes a free one)"
    parser.add_argument("--openai-port", type=int, metavar="PORT", help=openai)
    parser.add_argument(
        "--openai-workers", type=_processes, default=1, metavar="N", help="processes that serve it (default: 1)"
    )
    parser.add_argument(
        "--openai-direct",
        type=_processes,
        metavar="N",
        help="serve it from N processes that use the models' engines themselves, past Triton (SHARE_ENGINE)",
    )


def _gib(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def _processes(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return value


def serve(options: argparse.Namespace) -> int:
    wanted, direct = options.openai_port is not None, options.openai_direct
    if direct and (not wanted or options.openai_workers > 1):
        raise BuildError("--openai-direct needs --openai-port, and is the number of processes", "see --help")
    host = ports.address(options.host)
    progress = Progress()
    ready = prepare(options, progress)
    triton = server.TritonServer(
        options.model_repository,
        environment=ready,
        models=serving.models_of(options.model_repository, options.extra_args),
        host=host,
        http_port=options.http_port,
        grpc_port=options.grpc_port,
        metrics_port=options.metrics_port,
        extra=options.extra_args,
        env={frontend.DIRECT_VARIABLE: str(direct)} if direct else None,
    )
    openai: frontend.Frontend | None = None
    if direct:
        openai = frontend.DirectServer(ready, host, options.openai_port, triton, direct)
    elif wanted:
        workers, port = options.openai_workers, options.openai_port
        openai = frontend.Frontend(ready, host, port, triton.grpc_url, workers, triton.ports)
    progress.step("starting tritonserver" + (" and the OpenAI server" if openai else ""))
    return serving.run(triton, lambda it: print(serving.banner(it, openai), file=sys.stderr, flush=True), openai)


def supervise_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", nargs="?", default="tritonserver", metavar="PROGRAM", help="default: tritonserver")
    openai = "also run the OpenAI frontend on this port, both under supervisord"
    parser.add_argument("--openai-port", type=int, metavar="PORT", help=openai)
    parser.add_argument(
        "--openai-direct",
        type=_processes,
        default=os.environ.get(frontend.DIRECT_VARIABLE) or None,
        metavar="N",
        help="run N processes of the direct server on it instead, which use the models' engines past Triton "
        f"(default: ${frontend.DIRECT_VARIABLE})",
    )
    everywhere = "0.0.0.0"  # noqa: S104 - a container's port is published, or not
    host = f"address for it to listen on (default: {everywhere})"
    parser.add_argument("--openai-host", default=everywhere, metavar="ADDRESS", help=host)
    more = "further options of it, as in a shell, e.g. '--workers=2 --keep-alive=65'"
    parser.add_argument("--openai-options", default="", metavar="TEXT", help=more)


def supervise_server(options: argparse.Namespace) -> int:
    command = [options.program, *options.extra_args]
    if options.openai_port is None:
        if options.openai_direct and frontend.DIRECT_VARIABLE not in os.environ:
            raise BuildError("--openai-direct needs --openai-port, and is the number of processes", "see --help")
        supervise.check_ports(command)
        return supervise.run(command)
    try:
        more = shlex.split(options.openai_options)
    except ValueError as error:
        raise BuildError(f"--openai-options: {error}", "write them as in a shell") from error
    if options.openai_port == 0:
        raise BuildError("--openai-port: expected a port from 1 to 65535, got 0", "9000 is usual")
    host = ports.address(options.openai_host)
    supervise.check_ports(command, (host, options.openai_port))
    return together.run(command, host, options.openai_port, more, options.openai_direct or 0)


def demo_arguments(parser: argparse.ArgumentParser) -> None:
    _environment_arguments(parser)
    parser.add_argument("--seed", type=int, default=10, metavar="NUMBER", help="draw another image (default: 10)")


def demo(options: argparse.Namespace) -> int:
    progress = Progress()
    return demonstration.run(prepare(options, progress), progress, options.seed, options.extra_args)


def test_arguments(parser: argparse.ArgumentParser) -> None:
    _environment_arguments(parser)
    parser.add_argument("--fast", action="store_true", help="the linters and unit tests, without slow ones")
    parser.add_argument(
        "--base",
        type=Path,
        metavar="FOLDER",
        help="run what holds on every release of the official backend, on the one in FOLDER",
    )
    parser.add_argument(
        "pytest", nargs="*", metavar="ARGUMENT", help="for pytest, which then runs alone (options after --)"
    )


def test(options: argparse.Namespace) -> int:
    progress = Progress()
    arguments = [*options.pytest, *options.extra_args]
    if options.fast and (options.base or arguments):
        raise BuildError("--fast takes neither --base nor arguments for pytest", "leave one of them out")
    ready = prepare(options, progress)
    if options.base:
        return testing.run_on_base(ready, progress, options.base, arguments)
    if arguments or locks.older_vllm(ready.flavour):  # such an environment has no linters
        return testing.run_pytest(ready, progress, arguments or testing.ANY_BASE)
    return testing.run(ready, progress, fast=options.fast)


def docs_arguments(parser: argparse.ArgumentParser) -> None:
    _environment_arguments(parser)
    site.add_arguments(parser)


def docs(options: argparse.Namespace) -> int:
    return site.run(environment.ensure(Progress(), options.flavour, options.python), options)


def compatibility_arguments(parser: argparse.ArgumentParser) -> None:
    _environment_arguments(parser)
    parser.add_argument(
        "sources",
        type=Path,
        metavar="FOLDER",
        help="folder with one folder per release, each with model.py or src/model.py",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="RELEASE", help="names of these folders, or stand-in")


def try_compatibility(options: argparse.Namespace) -> int:
    progress = Progress()
    return compatibility.run(prepare(options, progress), progress, options.sources, options.only)


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    _environment_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    repository = "check the models in it: weights, media, lengths, memory, ensembles"
    parser.add_argument("--model-repository", type=Path, metavar="FOLDER", help=repository)
    url = "check whether the models of --model-repository would fetch it, and whether its host can be reached"
    parser.add_argument("--media-url", nargs="+", default=[], metavar="URL", help=url)
    memory = "of each GPU (default: as nvidia-smi says), to plan for another machine"
    parser.add_argument("--gpu-memory", type=_gib, metavar="GIB", help=memory)
    tree = "check this installation of Triton, as `install --into` does"
    parser.add_argument("--triton", type=Path, metavar="FOLDER", help=tree)
    upstream = "only compare this release of the official backend with what vllm_custom relies on"
    parser.add_argument("--upstream", type=Path, metavar="FOLDER", help=upstream)


def diagnose(options: argparse.Namespace) -> int:
    if options.upstream is not None:
        checks = doctor.compare_upstream(options.upstream, options.flavour, options.python)
        return doctor.run(checks, as_json=options.json)
    asked = doctor.DoctorOptions(
        flavour=options.flavour,
        python=options.python,
        triton=options.triton,
        repository=options.model_repository,
        media_urls=tuple(options.media_url),
        gpu_memory_gib=options.gpu_memory,
    )
    return doctor.run(doctor.examine(asked), as_json=options.json)
