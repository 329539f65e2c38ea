"""`image`: the Dockerfiles, parsed, and their steps run in a plain directory with the environment's own Triton."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.triton_tree import make_tree
from tools.installer import containers, environment, image, target
from tools.installer.console import BuildError
from tools.installer.image import ImageOptions
from tools.installer.paths import BACKEND_SOURCES, CHECKOUT
from vllm_custom_frontend.options import parse as parse_frontend

# The instructions of docs.docker.com/reference/dockerfile that ours may use.
KNOWN = {"FROM", "COPY", "RUN", "ENV", "VOLUME", "EXPOSE", "HEALTHCHECK", "USER", "CMD"}
WISHES = [
    ImageOptions(),
    ImageOptions(release="26.01", ensemble=True),
    ImageOptions(release="24.11", base=image.STANDARD, openai_port=9000),
    ImageOptions(release="25.08", backends=("identity",)),
    ImageOptions(release="25.12", root=True),
]


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
            (ImageOptions(release="26.01"), ["av", "qwen-vl-utils", "vllm"]),
            (ImageOptions(release="24.11"), ["av", "qwen-vl-utils", "vllm", "numpy"]),
            (ImageOptions(release="26.08", base=image.STANDARD), ["av", "qwen-vl-utils", "vllm"]),
            (ImageOptions(release="26.08", openai_port=9000), ["av", "qwen-vl-utils", "tritonclient[grpc]"]),
        ],
    )
    def test_what_is_installed_is_what_the_image_lacks(self, options: ImageOptions, packages: list[str]) -> None:
        found = [
            one.rest for one in parse(image.dockerfile(options)) if one.name == "RUN" and " pip install " in one.rest
        ]
        names = [re.findall(r"([\w\[\]-]+)==[\d.]+", line) for line in found]
        assert names == [packages]

    def test_the_openai_port(self) -> None:
        instructions = {one.name: one.rest for one in parse(image.dockerfile(ImageOptions(openai_port=9000)))}
        assert instructions["EXPOSE"] == "8000 8001 8002 9000"
        assert "tritonclient[grpc]==" in image.dockerfile(ImageOptions(openai_port=9000))
        shell, option, line = json.loads(instructions["CMD"])
        assert (shell, option) == ("/bin/sh", "-c")
        frontend, server = line.split(" & exec ")
        variable, *words = shlex.split(frontend)
        assert variable == "PYTHONPATH=/opt/tritonserver/backends/vllm_custom"
        assert words[:3] == ["python3", "-m", "vllm_custom_frontend"]
        options = parse_frontend(words[3:])
        assert (options.host, options.port, options.triton) == ("0.0.0.0", 9000, ("127.0.0.1:8001",))
        assert json.loads(parse(image.dockerfile(ImageOptions()))[-1].rest) == server.split()


class TestRefusals:
    def test_a_release_that_is_not_known(self) -> None:
        with pytest.raises(BuildError, match=r"the release 23\.01 is not in the table"):
            image.dockerfile(ImageOptions(release="23.01"))

    @pytest.mark.parametrize("release", ["24.08", "24.09"])
    def test_ensembles_where_the_server_lacks_them(self, release: str) -> None:
        with pytest.raises(BuildError, match="built without ensembles") as error:
            image.dockerfile(ImageOptions(release=release, ensemble=True))
        assert error.value.fix == "take --release 24.10 or later, or --from standard"

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
                # Paths of the container, below the directory; numeric owners are those of this process.
                command = re.sub(r"(?<=\s)/(opt|mnt|models|var)", rf"{container}/\1", one.rest)
                command = re.sub(r"-o \d+ -g \d+", f"-o {os.getuid()} -g {os.getgid()}", command)
                subprocess.run(["/bin/sh", "-c", command], cwd=container, check=True)

    def test_they_install_the_backend(self, container: Path) -> None:
        self.run(ImageOptions(), container)
        assert (container / "opt/tritonserver/backends/vllm_custom/version.json").is_file()
        assert (container / "models").is_dir()
        assert (container / "var/cache/vllm_custom").is_dir()

    def test_they_bring_further_backends(self, container: Path) -> None:
        self.run(ImageOptions(release="26.01", backends=("identity",)), container)
        assert (container / "opt/tritonserver/backends/identity/model.py").is_file()

    def test_a_step_that_fails_stops_the_build(self, container: Path) -> None:
        with pytest.raises(subprocess.CalledProcessError):
            self.run(ImageOptions(backends=("nothing",)), container)

    def test_the_health_check_asks_the_ready_endpoint(self) -> None:
        (check,) = [one for one in parse(image.dockerfile(ImageOptions())) if one.name == "HEALTHCHECK"]
        command = shlex.split(check.rest.removeprefix("CMD ").strip("[]").replace(",", " ", 2))
        assert command[:2] == ["python3", "-c"]
        compile(command[2], "health", "exec")
        refused = subprocess.run(
            [sys.executable, "-c", command[2].replace(":8000", ":1")], capture_output=True, check=False
        )
        assert (refused.returncode, b"URLError" in refused.stderr) == (1, True)


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
