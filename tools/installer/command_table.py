"""The commands of build.py: what each is called, and who takes its arguments and runs it."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from tools.installer import commands, image, lock_reports
from tools.installer.paths import IS_PACKAGED


@dataclass(frozen=True)
class Command:
    """One subcommand."""

    name: str
    summary: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    # Works on files that a package does not hold.
    needs_checkout: bool = False


COMMANDS = (
    Command(
        "install",
        "make the environment and the backends folder, or add vllm_custom to an existing Triton",
        "Install tritonserver, vLLM and what the tests need, from the lock, and assemble build/backends. With --into,\n"
        "add vllm_custom to an installation of Triton instead; its Python is then --python (default: python3).",
        commands.install_arguments,
        commands.install,
    ),
    Command(
        "serve",
        "run tritonserver in the foreground",
        "Run tritonserver on a model repository until Ctrl-C or SIGTERM. Of the default repository only shapes_vl is\n"
        "loaded; another one is loaded whole. What follows `--` is passed to tritonserver.",
        commands.serve_arguments,
        commands.serve,
    ),
    Command(
        "supervise",
        "run an installed tritonserver, and replace instances that are killed",
        "Run tritonserver as the first process of a container, with --openai-port and the OpenAI frontend.\n"
        "Signals are passed on; under explicit model control, instances whose process was killed are replaced.\n"
        "What follows `--` is passed to tritonserver.",
        commands.supervise_arguments,
        commands.supervise_server,
    ),
    Command(
        "demo",
        "send an image to a real server and check its answer",
        "Install what is missing, serve shapes_vl on free ports, send it an image and a question through generate\n"
        "and generate_stream, show them with the answers, and stop. Exits with 0 only where both answers are right.",
        commands.demo_arguments,
        commands.demo,
    ),
    Command(
        "test",
        "run the linters and the tests",
        "Install what is missing, then run ruff, mypy, codespell, and the unit, component and end-to-end tests.\n"
        "With arguments only pytest runs:\n"
        "    build.py test tests/unit\n"
        "    build.py test -- -k stream -x",
        commands.test_arguments,
        commands.test,
        needs_checkout=True,
    ),
    Command(
        "doctor",
        "report what is installed, what is wrong and how to fix it",
        "Check the system, the environment and the machine without changing anything. Exits with 1 if a check fails.",
        commands.doctor_arguments,
        commands.diagnose,
    ),
    Command(
        "image",
        "write a Dockerfile with vllm_custom, and build it",
        "Write a Dockerfile on top of one of NVIDIA's containers of Triton, and build the image with --build.",
        image.add_arguments,
        image.run_command,
    ),
    Command(
        "docs",
        "build or show the documentation as a site",
        "Build the site of docs/ with MkDocs into build/site, or serve it and follow changes. A warning, such as a\n"
        "link that leads nowhere, fails the build.",
        commands.docs_arguments,
        commands.docs,
        needs_checkout=True,
    ),
    Command(
        "compatibility",
        "run the shared server tests on official releases",
        "Run the shared server tests on the stand-in and on each official release in a folder, and write the\n"
        "results into docs/compatibility.md. A release is a folder of its name with the official backend's src:\n"
        "    git -C vllm_backend archive r26.01 src | tar x -C releases/r26.01",
        commands.compatibility_arguments,
        commands.try_compatibility,
        needs_checkout=True,
    ),
    Command(
        "sbom",
        "write a bill of materials",
        "Write the packages of a lock as a CycloneDX bill of materials.",
        lock_reports.add_sbom_arguments,
        lock_reports.write_sbom,
    ),
    Command(
        "audit",
        "look for known vulnerabilities",
        "Run pip-audit on the packages of a lock. Needs its database, and so the network.\n"
        "Exits with 1 where a package has a known vulnerability, or could not be looked up.",
        lock_reports.add_arguments,
        lock_reports.audit,
    ),
    Command(
        "lock",
        "resolve the dependencies anew",
        "Write locks/ from pyproject.toml.",
        commands.lock_arguments,
        commands.lock,
        needs_checkout=True,
    ),
)


def offered(*, is_packaged: bool = IS_PACKAGED) -> list[Command]:
    """The commands that work here."""
    return [command for command in COMMANDS if not (is_packaged and command.needs_checkout)]
