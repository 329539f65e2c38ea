"""`sbom` and `audit`: what a lock installs, for other programs to read, and which of it has known vulnerabilities."""

import argparse
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import uuid
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.installer import into, locks, machine
from tools.installer.console import BuildError, Progress

AUDITOR = "pip-audit"
_SPECIFICATION = "1.6"
# Makes the serial number of a bill from what is in it.
_NAMESPACE = uuid.UUID("6f0c2f0e-5b0f-4d5c-9a43-0f4b9a1d7c55")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which lock, and for which Python."""
    flavour = "default: cuda where an NVIDIA GPU answers, else cpu"
    parser.add_argument("--flavour", choices=locks.FLAVOURS, help=flavour)
    python = f"the Python that it is installed on (default: {locks.PYTHONS[0]})"
    parser.add_argument("--python", choices=locks.PYTHONS, default=locks.PYTHONS[0], help=python)


def add_sbom_arguments(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    installed = "of what the running Python has installed, instead of a lock"
    parser.add_argument("--installed", action="store_true", help=installed)
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")


def bill(versions: Mapping[str, str]) -> dict[str, object]:
    """A CycloneDX bill of materials: vllm_custom and these packages. The same ones give the same bill."""
    product = {"type": "application", "bom-ref": into.NAME, "name": into.NAME, "version": into.own_version()}
    components = [_component(name, version) for name, version in sorted(versions.items())]
    content = json.dumps([product, components])
    return {
        "bomFormat": "CycloneDX",
        "specVersion": _SPECIFICATION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, content)}",
        "version": 1,
        "metadata": {"component": product},
        "components": components,
    }


def _component(name: str, version: str) -> dict[str, str]:
    address = f"pkg:pypi/{name}@{version}"
    return {"type": "library", "bom-ref": address, "name": name, "version": version, "purl": address}


def write_sbom(options: argparse.Namespace) -> int:
    if options.installed:
        versions = installed_versions()
    else:
        versions = locks.read_pins(options.flavour or machine.default_flavour(), options.python)
    text = json.dumps(bill(versions), indent=2) + "\n"
    if options.output is None:
        sys.stdout.write(text)
    else:
        options.output.write_text(text)
    return 0


def installed_versions() -> dict[str, str]:
    """Of every distribution that the running Python finds, by the names that locks use."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # what a broken installation left has none
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    return found


def audit(options: argparse.Namespace) -> int:
    """pip-audit on a lock, in an environment that is thrown away. 1 where a package is vulnerable or is not known."""
    pins = locks.read_pins(options.flavour or machine.default_flavour(), options.python)
    progress = Progress()
    with tempfile.TemporaryDirectory(prefix="vllm_custom-audit-") as scratch:
        progress.step(f"fetching {AUDITOR}")
        python = Path(scratch) / "env/bin/python"
        venv.create(python.parent.parent, with_pip=True)
        if _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", AUDITOR]):
            raise BuildError(f"pip could not install {AUDITOR}", "check the network, and pip's configuration")
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        progress.step(f"asking about {len(pins)} packages")
        return _run(audit_command(python, requirements))


def audit_command(python: Path, requirements: Path) -> list[str]:
    """What is pinned, as it is pinned. --strict: a package that the database could not be asked about is a failure."""
    given = ["--strict", "--disable-pip", "--no-deps", "--progress-spinner", "off", "--requirement", str(requirements)]
    return [str(python), "-m", "pip_audit", *given]


def _run(command: Sequence[str]) -> int:
    return subprocess.run(command, check=False).returncode
