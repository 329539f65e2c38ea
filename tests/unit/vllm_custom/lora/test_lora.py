"""LoRA adapters: ids, loading, and a folder that changes while it serves."""

import asyncio
import errno
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_engine import DeadError, FakeEngine
from vllm_custom.engine import Adapter
from vllm_custom.errors import BackendError, InvalidRequestError, NotFoundError, UnavailableError
from vllm_custom.lora import LoraAdapters, LoraFolder
from vllm_custom.lora.folder import scan

PATHS = {"zh": "/adapters/zh", "caps": "/adapters/caps"}


def files(folder: str) -> list[str]:
    """Names of what is there; empty where the folder is not."""
    return sorted(file.name for file in Path(folder).glob("*"))


async def used(adapters: LoraAdapters, name: str | None) -> Any:
    async with adapters.use(name) as request:
        return request


async def test_an_adapter_is_loaded_once_under_the_id_of_its_place() -> None:
    engine = FakeEngine()
    adapters = LoraAdapters(engine, PATHS, enabled=True)
    requests = [await used(adapters, name) for name in ("caps", "caps", "zh")]
    assert requests == [
        Adapter("caps", 2, "/adapters/caps"),
        Adapter("caps", 2, "/adapters/caps"),
        Adapter("zh", 1, "/adapters/zh"),
    ]
    assert [item.name for item in engine.adapters] == ["caps", "zh"]
    assert await used(adapters, None) is None


async def test_an_adapter_that_cannot_be_loaded_is_tried_again() -> None:
    engine = FakeEngine()
    engine.adapter_error = RuntimeError("rank 512 at /secret/path of q/k/v in /adapters/zh/x")
    adapters = LoraAdapters(engine, PATHS, enabled=True)
    with pytest.raises(InvalidRequestError) as error:
        await used(adapters, "zh")
    assert str(error.value) == (
        "lora_name: the adapter 'zh' cannot be loaded by this engine: rank 512 at ... of q/k/v in zh/x"
    )
    engine.adapter_error = None
    assert (await used(adapters, "zh")).name == "zh"


@pytest.mark.parametrize(
    ("enabled", "name", "kind", "message"),
    [
        (True, "nl", NotFoundError, r"^LoRA nl is not supported, we currently support \['caps', 'zh'\]$"),
        (False, "zh", InvalidRequestError, r"^LoRA feature is not enabled\.$"),
    ],
)
async def test_an_adapter_that_is_not_there_is_refused(
    enabled: bool, name: str, kind: type[BackendError], message: str
) -> None:
    adapters = LoraAdapters(FakeEngine(), PATHS if enabled else {}, enabled=enabled)
    await adapters.check(None)
    with pytest.raises(kind, match=message):
        await adapters.check(name)


async def test_requests_that_come_together_share_one_load_and_a_cancelled_one_does_not_stop_it() -> None:
    class Slow(FakeEngine):
        async def load_adapter(self, adapter: Adapter) -> None:
            await asyncio.sleep(0.05)
            await super().load_adapter(adapter)

    engine = Slow()
    adapters = LoraAdapters(engine, PATHS, enabled=True)
    first, *others = [asyncio.ensure_future(used(adapters, "zh")) for _ in range(3)]
    await asyncio.sleep(0.01)
    first.cancel()
    assert [(await other).number for other in others] == [1, 1]
    assert len(engine.adapters) == 1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Folder:
    """LORA_DIR as an operator changes it, with the adapters and the engine that it serves."""

    def __init__(self, path: Path, *, copies: bool = True) -> None:
        self.path = path
        self.clock = Clock()
        self.engine = FakeEngine()
        self.adapters = LoraAdapters(
            self.engine, {"zh": "/a/zh"}, enabled=True, folder=LoraFolder(path, copies=copies, clock=self.clock)
        )

    def write(self, name: str, weights: str) -> None:
        (self.path / name).mkdir(exist_ok=True)
        (self.path / name / "adapter_config.json").write_text("{}")
        (self.path / name / "adapter_model.safetensors").write_text(weights)
        (self.path / name / "optimizer.pt").write_text("large")

    async def use(self, name: str) -> tuple[int, str]:
        """The id, and the weights that the engine finds at the request's path."""
        self.clock.now += 2
        request = await used(self.adapters, name)
        return request.number, (Path(request.path) / "adapter_model.safetensors").read_text()

    async def settle(self) -> None:
        await asyncio.gather(*self.adapters._cleaning)


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    made = Folder(tmp_path)
    yield made
    made.adapters.close()


async def test_adapters_come_change_and_go_and_no_id_comes_back(folder: Folder) -> None:
    with pytest.raises(NotFoundError, match=r"LoRA a is not supported, we currently support \['zh'\]"):
        await folder.use("a")
    folder.write("a", "one")
    assert await folder.use("a") == (2, "one")
    assert await folder.use("a") == (2, "one")
    folder.write("a", "other")
    assert await folder.use("a") == (3, "other")
    (folder.path / "a").rename(folder.path / "b")
    with pytest.raises(NotFoundError, match=r"LoRA a is not supported, we currently support \['b', 'zh'\]"):
        await folder.use("a")
    assert await folder.use("b") == (4, "other")
    (folder.path / "b").rename(folder.path / "a")
    assert await folder.use("a") == (5, "other")
    await folder.settle()
    assert [(item.number, item.name) for item in folder.engine.adapters] == [(5, "a@5")]


async def test_a_request_keeps_the_weights_it_began_with(folder: Folder) -> None:
    folder.write("a", "one")
    async with AsyncExitStack() as stack:
        before = await stack.enter_async_context(folder.adapters.use("a"))
        folder.write("a", "other")
        assert await folder.use("a") == (3, "other")
        await folder.settle()
        assert (Path(before.path) / "adapter_model.safetensors").read_text() == "one"
        assert [item.number for item in folder.engine.adapters] == [2, 3]
    await folder.settle()
    assert [item.number for item in folder.engine.adapters] == [3]
    assert files(before.path) == []


async def test_the_copy_holds_what_the_engine_reads_and_goes_at_the_end(folder: Folder) -> None:
    folder.write("a", "one")
    request = await used(folder.adapters, "a")
    assert files(request.path) == ["adapter_config.json", "adapter_model.safetensors"]
    folder.adapters.close()
    assert files(request.path) == []


async def test_workers_on_other_hosts_get_the_folder_itself(tmp_path: Path) -> None:
    folder = Folder(tmp_path, copies=False)
    folder.write("a", "one")
    assert (await used(folder.adapters, "a")).path == str(tmp_path / "a")


async def test_an_adapter_that_changes_while_it_is_copied_is_not_served(folder: Folder) -> None:
    folder.write("a", "one")
    await folder.adapters.check("a")
    folder.write("a", "other")
    with pytest.raises(UnavailableError, match="the adapter 'a' is being replaced; try again"):
        await used(folder.adapters, "a")
    assert await folder.use("a") == (3, "other")


async def test_an_adapter_for_which_there_is_no_room_leaves_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("a", "one")
    copied: list[Path] = []

    def fill(_: Path, target: Path) -> None:
        target.write_text("a part")
        copied.append(target)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("vllm_custom.lora.folder.shutil.copyfile", fill)
        with pytest.raises(UnavailableError, match="'a' cannot be copied: the server has no space now; try again"):
            await used(folder.adapters, "a")
    assert copied
    assert not copied[0].parent.exists()
    assert await folder.use("a") == (2, "one")


async def test_an_adapter_that_vanishes_before_it_is_copied(folder: Folder) -> None:
    folder.write("a", "one")
    await folder.adapters.check("a")
    for file in (folder.path / "a").iterdir():
        file.unlink()
    with pytest.raises(UnavailableError, match="'a'"):
        await used(folder.adapters, "a")
    with pytest.raises(NotFoundError):
        await folder.use("a")


async def test_a_broken_adapter_is_its_own_requests_failure(folder: Folder) -> None:
    folder.write("a", "one")
    folder.write("b", "two")
    folder.engine.adapter_error = ValueError("bad weights")
    with pytest.raises(InvalidRequestError, match="the adapter 'a' cannot be loaded by this engine: bad weights"):
        await folder.use("a")
    folder.engine.adapter_error = None
    assert await folder.use("b") == (3, "two")
    assert await folder.use("a") == (2, "one")


async def test_the_folder_is_looked_at_about_once_a_second(folder: Folder) -> None:
    with pytest.raises(NotFoundError):
        await folder.use("a")
    folder.write("a", "one")
    with pytest.raises(NotFoundError):
        await used(folder.adapters, "a")
    folder.clock.now += 1
    assert (await used(folder.adapters, "a")).number == 2


async def test_names_of_multi_lora_json_win(folder: Folder) -> None:
    folder.write("zh", "other")
    request = await used(folder.adapters, "zh")
    assert (request.number, request.path) == (1, "/a/zh")


def test_a_scan_takes_folders_with_an_adapter_only(tmp_path: Path) -> None:
    for name in ("a", ".hidden", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/adapter_config.json").write_text("{}")
    (tmp_path / ".hidden/adapter_config.json").write_text("{}")
    (tmp_path / "adapter_config.json").write_text("{}")
    assert list(scan(tmp_path)) == ["a"]
    assert scan(tmp_path / "nowhere") == {}


async def test_processes_of_one_engine_use_the_same_ids(tmp_path: Path) -> None:
    """Two that assign ids by themselves would give one id to two adapters, and one of them the other's weights."""
    known: dict[str, int] = {}

    async def number(key: str, at_least: int) -> int:
        await asyncio.sleep(0)
        return known.setdefault(key, at_least + len(known))

    engine, clock = FakeEngine(), Clock()
    for name in ("a", "b"):
        Folder(tmp_path).write(name, name)
    folders = [LoraFolder(tmp_path, clock=clock) for _ in range(2)]
    fronts = [LoraAdapters(engine, {"zh": "/a/zh"}, enabled=True, folder=folder, numbers=number) for folder in folders]
    first, second = await asyncio.gather(used(fronts[0], "a"), used(fronts[1], "b"))
    assert {first.number, second.number} == {2, 3}
    assert (await used(fronts[1], "a")).number == first.number
    assert (await used(fronts[0], "b")).number == second.number
    same = await asyncio.gather(*(used(fronts[0], "a") for _ in range(3)))
    assert {adapter.number for adapter in same} == {first.number}
    for front in fronts:
        front.close()


async def test_weights_that_come_back_under_their_id_have_a_copy_of_their_own(tmp_path: Path) -> None:
    async def number(key: str, at_least: int) -> int:
        return at_least

    folder = Folder(tmp_path)
    folder.adapters = LoraAdapters(
        folder.engine, {}, enabled=True, folder=LoraFolder(tmp_path, clock=folder.clock), numbers=number
    )
    folder.write("a", "one")
    async with AsyncExitStack() as stack:
        before = await stack.enter_async_context(folder.adapters.use("a"))
        (tmp_path / "a").rename(tmp_path / ".a")
        folder.clock.now += 2
        with pytest.raises(NotFoundError):
            await used(folder.adapters, "a")
        (tmp_path / ".a").rename(tmp_path / "a")
        assert await folder.use("a") == (1, "one")
        after = await used(folder.adapters, "a")
        assert (before.number, before.path != after.path) == (after.number, True)
    await folder.settle()
    assert files(before.path) == []
    assert "adapter_model.safetensors" in files(after.path)
    folder.adapters.close()


async def test_an_engine_that_was_started_again_has_every_adapter_loaded_again(tmp_path: Path) -> None:
    """Under ids that no request before has had: one may still hold an adapter of the engine that has died."""
    asked: list[tuple[str, int]] = []

    async def number(key: str, at_least: int) -> int:
        asked.append((key.partition("@")[0], at_least))
        return at_least

    folder = Folder(tmp_path)
    folder.adapters = LoraAdapters(
        folder.engine,
        {"zh": "/a/zh"},
        enabled=True,
        folder=LoraFolder(tmp_path, clock=folder.clock),
        numbers=number,
    )
    folder.write("a", "one")
    async with AsyncExitStack() as stack:
        before = await stack.enter_async_context(folder.adapters.use("a"))
        assert (await used(folder.adapters, "zh")).number == 1
        folder.engine.come_back()
        folder.adapters.engine_restarted()
        assert files(before.path), "a request still has it"
        assert (await used(folder.adapters, "zh")).number == 1
        assert await folder.use("a") == (before.number + 1, "one")
        assert [adapter.number for adapter in folder.engine.adapters] == [1, before.number + 1]
    await folder.settle()
    assert files(before.path) == []
    assert [adapter.number for adapter in folder.engine.adapters] == [1, before.number + 1], "nothing was removed"
    assert asked == [("a", 2), ("a", 3)]
    folder.adapters.close()


async def test_an_engine_that_dies_is_no_fault_of_the_adapter() -> None:
    engine = FakeEngine()
    engine.adapter_error = DeadError()
    with pytest.raises(UnavailableError, match="engine has died"):
        await used(LoraAdapters(engine, PATHS, enabled=True), "zh")
