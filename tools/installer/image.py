"""`image`: a Dockerfile for a container with vllm_custom, and the image itself where a container engine is present."""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.installer import containers, into, locks, target, triton_options
from tools.installer.console import BuildError
from tools.installer.containers import Container
from tools.installer.paths import BUILD, CHECKOUT

DEFAULT_FILE = BUILD / "image/Dockerfile"
VLLM, STANDARD = "vllm", "standard"
ENGINES = ("docker", "podman")
# The Python that the locked vLLM asks for.
_OLDEST_PYTHON = (3, 11)
_TREE = "/opt/tritonserver"
_CHECKOUT = "/opt/vllm_custom"
_MOUNT = "/mnt/standard"
_CACHE = "/var/cache/vllm_custom"
# What `install --into` needs of this checkout.
_FOLDERS = ("tools/installer", "backends", "frontend", "patches", "locks")
IGNORE = "*\n!build.py\n!tools\n!backends\n!frontend\n!patches\n!locks\n**/__pycache__\n"
_BILL = f"{_CHECKOUT}/sbom.cdx.json"
# The user triton-server in NVIDIA's images.
_USER = "1000:1000"
_READY = "import urllib.request as r; [r.urlopen(url, timeout=4) for url in ({urls},)]"
_TRITON_READY = "http://127.0.0.1:8000/v2/health/ready"
# With explicit model control, instances whose process was killed can be replaced.
_OPTIONS = ("--model-repository=/models", "--model-control-mode=explicit", "--load-model=*")
# What the frontend needs in addition to what comes with vLLM, and what runs it and tritonserver.
_FRONTEND_PACKAGES = ("tritonclient", "grpcio", "python-rapidjson", "supervisor")
_PIP = "python3 -m pip install --no-cache-dir"
_VERSIONS = "/tmp/versions.txt"  # noqa: S108 - of the image while it is built
_HIGHEST_PORT = 65_535
_BACKEND = re.compile(r"\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class ImageOptions:
    """What the command line asks for."""

    release: str = containers.NEWEST
    base: str = VLLM
    ensemble: bool = False
    backends: tuple[str, ...] = ()
    root: bool = False
    openai_port: int | None = None
    openai_direct: int | None = None


def dockerfile(options: ImageOptions) -> str:
    """The text. Raises BuildError for what is known not to work."""
    container = _container(options)
    if options.openai_port is not None:
        _check_port(options.openai_port)
    if options.openai_direct is not None and (options.openai_port is None or options.openai_direct < 1):
        raise BuildError("--openai-direct needs --openai-port, and is a number of processes", "see --help")
    for name in options.backends:
        if not _BACKEND.fullmatch(name):
            raise BuildError(f"--backends: expected names of backends, got {name!r}", "onnxruntime is one")
    return "\n\n".join(filter(None, _parts(options, container))) + "\n"


def _check_port(port: int) -> None:
    if not 0 < port <= _HIGHEST_PORT:
        raise BuildError(f"--openai-port: expected a port from 1 to {_HIGHEST_PORT}, got {port}", "9000 is usual")
    if port in triton_options.PORTS.values():
        raise BuildError(f"--openai-port: {port} is a port of tritonserver", "9000 is usual")


def _container(options: ImageOptions) -> Container:
    container = containers.CONTAINERS.get(options.release)
    if container is None:
        raise BuildError(
            f"the release {options.release} is not in the table", f"choose one of {', '.join(containers.CONTAINERS)}"
        )
    if options.ensemble and options.base == VLLM and not container.ensemble:
        with_it = min(known.release for known in containers.CONTAINERS.values() if known.ensemble)
        raise BuildError(
            f"Triton in the vLLM container of {options.release} was built without ensembles",
            f"take --release {with_it} or later, or --from {STANDARD}",
        )
    if target.numbers(container.python) < _OLDEST_PYTHON:
        oldest = min(
            known.release for known in containers.CONTAINERS.values() if target.numbers(known.python) >= _OLDEST_PYTHON
        )
        raise BuildError(
            f"the containers of {options.release} have Python {container.python}, and vLLM {_locked('vllm')} needs "
            f"{'.'.join(map(str, _OLDEST_PYTHON))}",
            f"take --release {oldest} or later",
        )
    return container


def _parts(options: ImageOptions, container: Container) -> Iterator[str]:
    # BuildKit reads `syntax` in the first line only.
    yield f"# syntax=docker/dockerfile:1\n# Written by vllm_custom's build.py for Triton {container.triton}."
    if options.backends and options.base == VLLM:
        yield f"FROM {container.standard_image} AS standard"
    if options.base == STANDARD:
        yield f"FROM {container.vllm_image} AS official\n\nFROM {container.standard_image}"
        yield f"# The official backend.\nCOPY --from=official {_TREE}/backends/vllm {_TREE}/backends/vllm"
    else:
        yield f"FROM {container.vllm_image}"
    yield _labels(options, container)
    copies = [f"COPY {folder}/ {_CHECKOUT}/{folder}/" for folder in _FOLDERS]
    copies += [f"COPY build.py {_CHECKOUT}/", f"COPY tools/__init__.py {_CHECKOUT}/tools/"]
    yield "\n".join(copies)
    yield from _packages(options, container)
    yield _install(options)
    yield f"# What is installed, in CycloneDX.\nRUN python3 {_CHECKOUT}/build.py sbom --installed --output {_BILL}"
    yield from _serving(options)


def _labels(options: ImageOptions, container: Container) -> str:
    base = container.standard_image if options.base == STANDARD else container.vllm_image
    labels = {
        "title": into.NAME,
        "description": "Triton Inference Server with a backend for vLLM",
        "version": into.own_version(),
        "licenses": "BSD-3-Clause",
        "base.name": base,
    }
    return "LABEL " + " \\\n    ".join(f'org.opencontainers.image.{key}="{value}"' for key, value in labels.items())


def _packages(options: ImageOptions, container: Container) -> Iterator[str]:
    """vLLM where the image has none, or one that was not tried; what reads videos and audio; the frontend's needs.

    What comes with the image stays as it is: single packages are added without what they depend on, which is there.
    vLLM brings its own, in the versions of the lock.
    """
    names = ["av", "qwen-vl-utils", *(_FRONTEND_PACKAGES if options.openai_port else ())]
    reasons = ["PyAV reads video and audio, qwen-vl-utils sizes images and videos for Qwen's models."]
    if options.openai_port:
        reasons.append("The OpenAI frontend speaks gRPC, and supervisord runs both.")
    if options.base == STANDARD or not target.is_tried(container.vllm):
        standard = options.base == STANDARD
        reasons.append("The image has no vLLM." if standard else f"vLLM {container.vllm} was not tried.")
        steps = [
            f"grep -v '^numpy==' {_CHECKOUT}/locks/cuda.txt > {_VERSIONS}",
            f"{_PIP} --constraint {_VERSIONS} {_pinned([*names, 'vllm'])}",
        ]
        # Older stubs break on every text tensor of numpy 2, which packages of vLLM ask for and do not need.
        # Newer ones come with it, and keep theirs.
        if target.numbers(container.triton) < target.numbers(containers.NUMPY2_TRITON):
            steps.append(f"{_PIP} --no-deps {_pinned(['numpy'])}")
        yield f"# {' '.join(reasons)}\nRUN " + " \\\n    && ".join(steps)
    else:
        yield f"# {' '.join(reasons)}\nRUN {_PIP} --no-deps {_pinned(names)}"


def _pinned(names: Sequence[str]) -> str:
    return " ".join(f"{name}=={_locked(name)}" for name in names)


def _locked(package: str) -> str:
    return locks.read_pins("cuda", "3.12")[package]


def _install(options: ImageOptions) -> str:
    install = f"python3 {_CHECKOUT}/build.py install --into {_TREE}"
    mount = ""
    if options.backends and options.base == VLLM:
        mount = f"--mount=type=bind,from=standard,source={_TREE},target={_MOUNT} "
        install += f" --backend-from {_MOUNT} --backends {shlex.join(options.backends)}"
    steps = [install]
    if not options.root:
        user, group = _USER.split(":")
        steps.append(f"install -d -o {user} -g {group} /models {_CACHE}")
    return f"RUN {mount}\\\n    " + " \\\n    && ".join(steps) if mount or len(steps) > 1 else f"RUN {install}"


def _serving(options: ImageOptions) -> Iterator[str]:
    # Whatever else writes below the home folder does so in the volume: the rest of the image may be read-only.
    # Python packages that a user put there are not imported.
    variables = (
        f"HOME={_CACHE}",
        f"HF_HOME={_CACHE}/huggingface",
        f"VLLM_CACHE_ROOT={_CACHE}/vllm",
        "PYTHONNOUSERSITE=1",
    )
    yield "ENV " + " \\\n    ".join(variables)
    ports = ["8000", "8001", "8002", *([str(options.openai_port)] if options.openai_port else [])]
    yield f"VOLUME {json.dumps(['/models', _CACHE])}\nEXPOSE {' '.join(ports)}"
    yield (
        "# Loading a large model takes minutes.\n"
        "HEALTHCHECK --interval=30s --timeout=10s --start-period=30m --retries=3 \\\n"
        f"    CMD {json.dumps(['python3', '-c', health_check(options)])}"
    )
    if not options.root:
        yield f"USER {_USER}"
    command, comment = ["python3", f"{_CHECKOUT}/build.py", "supervise"], ""
    if options.openai_port:
        command.append(f"--openai-port={options.openai_port}")
        if options.openai_direct:
            command.append(f"--openai-direct={options.openai_direct}")
        comment = "# Keys for OpenAI's API: VLLM_CUSTOM_API_KEYS, or VLLM_CUSTOM_API_KEYS_FILE, which names a secret.\n"
    yield f"{comment}CMD {json.dumps([*command, '--', *_OPTIONS])}"


def health_check(options: ImageOptions) -> str:
    """A program that fails where one of the servers is not ready."""
    urls = [_TRITON_READY]
    if options.openai_port:
        urls.append(f"http://127.0.0.1:{options.openai_port}/ready")
    return _READY.format(urls=", ".join(f"'{url}'" for url in urls))


def engine() -> str | None:
    """The container engine of this machine: one that is installed and answers."""
    for name in ENGINES:
        if shutil.which(name):
            asked = subprocess.run([name, "info"], capture_output=True, timeout=60, check=False)
            if asked.returncode == 0:
                return name
    return None


def run(options: ImageOptions, file: Path, tag: str, *, build: bool, say: Callable[[str], object] = print) -> int:
    """Write the Dockerfile, and build the image where asked. `-` writes to standard output."""
    text = dockerfile(options)
    if str(file) == "-":
        sys.stdout.write(text)
        return 0
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    # Next to a Dockerfile of this name, it goes before the .dockerignore of the checkout.
    file.with_name(f"{file.name}.dockerignore").write_text(IGNORE)
    found = engine() if build else None
    if build and found is None:
        raise BuildError(f"{file} is written; no container engine answers here", f"install {' or '.join(ENGINES)}")
    command = [found or ENGINES[0], "build", "--file", str(file), "--tag", tag, str(CHECKOUT)]
    if not found:
        say(f"written: {file}\nto build it: {shlex.join(command)}")
        return 0
    return subprocess.run(command, check=False).returncode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    newest = containers.NEWEST
    parser.add_argument(
        "--release", default=newest, metavar="YY.MM", help=f"of NVIDIA's containers (default: {newest})"
    )
    base = "build on the container with vLLM, or on the standard one with vLLM from PyPI (default: vllm)"
    parser.add_argument("--from", dest="base", choices=(VLLM, STANDARD), default=VLLM, help=base)
    parser.add_argument("--ensemble", action="store_true", help="refuse where ensembles are known not to work")
    more = "backends of the standard container to bring along, e.g. onnxruntime"
    parser.add_argument("--backends", nargs="+", default=[], metavar="NAME", help=more)
    parser.add_argument("--root", action="store_true", help="run as root (default: the user triton-server, 1000)")
    openai = "also start the OpenAI frontend on this port"
    parser.add_argument("--openai-port", type=int, metavar="PORT", help=openai)
    direct = "start N processes of the direct server on it instead"
    parser.add_argument("--openai-direct", type=int, metavar="N", help=direct)
    file = f"default: {DEFAULT_FILE}; - is standard output"
    parser.add_argument("--output", type=Path, default=DEFAULT_FILE, metavar="FILE", help=file)
    parser.add_argument("--build", action="store_true", help="build the image too, with docker or podman")
    parser.add_argument("--tag", default="vllm_custom", metavar="NAME", help="of the image (default: vllm_custom)")


def run_command(options: argparse.Namespace) -> int:
    wanted = ImageOptions(
        release=options.release,
        base=options.base,
        ensemble=options.ensemble,
        backends=tuple(options.backends),
        root=options.root,
        openai_port=options.openai_port,
        openai_direct=options.openai_direct,
    )
    return run(wanted, options.output, options.tag, build=options.build)
