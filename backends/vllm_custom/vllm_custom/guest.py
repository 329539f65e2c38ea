"""Models of a running tritonserver in another process: fronts with an HTTP server, on the models' engines."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

from vllm_custom.base_backend import patch_as
from vllm_custom.base_backend.keys import keys_of_base, without
from vllm_custom.contract.settings import Settings
from vllm_custom.engine import host
from vllm_custom.engine import vllm as engine
from vllm_custom.engine.host import Connection, Offer, Share
from vllm_custom.kernel import model_files
from vllm_custom.loading import read_adapters, read_files
from vllm_custom.media.decoders.image import set_pixel_limit
from vllm_custom.media.handles import MediaHandles
from vllm_custom.runtime import tuning
from vllm_custom.serving.common import Common, ModelFiles
from vllm_custom.serving.http import HttpRequest as HttpRequest
from vllm_custom.serving.http import HttpRunner

_POLL_SECONDS = 0.05


class GuestModel:
    """One model that this process serves. To be used on its event loop."""

    def __init__(
        self, made: Offer, folder: Path, llm: Any, running: engine.VllmEngine, common: Common, share: Share
    ) -> None:
        """
        Args:
            made: the offer.
            folder: of the engine.
            llm: vLLM's client of the engine.
            running: the same, behind our protocol.
            common: what serves the model.
            share: what this process has in common with the model's instances.
        """
        self.offer = made
        self.folder = folder
        self.runner = HttpRunner(common, running, lambda: self._leaving)
        self._llm = llm
        self._engine = running
        self._common = common
        self._share = share
        self._leaving = False

    @property
    def name(self) -> str:
        """Of the model in Triton."""
        return self.offer.model

    @property
    def is_dead(self) -> bool:
        """Whether the engine has died, or gone."""
        return self._engine.is_dead

    @property
    def usable(self) -> bool:
        """Whether it takes requests."""
        return not (self._leaving or self.is_dead)

    async def names(self) -> list[str]:
        """What requests may call it: its own name, and those of its adapters."""
        return await self._common.openai.names()

    async def has_response(self, response_id: str) -> bool:
        """Whether this process keeps that response of the Responses API."""
        return await self._common.openai.has_response(response_id)

    async def cards(self) -> list[dict[str, Any]]:
        """OpenAI's cards of the model and its adapters."""
        return await self._common.openai.cards()

    async def close(self, seconds: float) -> None:
        """Take no more requests, let those under way end for so long, and leave the engine."""
        self._leaving = True
        await asyncio.to_thread(self._common.watch.close)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drained(), seconds)
        self._llm.shutdown()
        await asyncio.to_thread(self._common.close)
        await asyncio.to_thread(self._share.close)

    async def _drained(self) -> None:
        while self.runner.running and not self.is_dead:  # noqa: ASYNC110 - the engine does not say that it dies
            await asyncio.sleep(_POLL_SECONDS)


class Guests:
    """What the guest models of a process have in common. For one event loop."""

    def __init__(self, name: str, guests: int, sink: Any) -> None:
        """
        Args:
            name: of this process, for the log of the engine.
            guests: how many processes like this one there are to be.
            sink: has ``Logger`` and ``MetricFamily``, as Triton's module has.
        """
        self._name = name
        self._guests = guests
        self._sink = sink
        self._handles = MediaHandles()
        self._patched = False
        self._pixels = self._seconds = 0

    async def attach(self, folder: Path, made: Offer) -> GuestModel:
        """Become a front of the model that is offered in ``folder``.

        Raises:
            ConfigError: the model cannot be served here.
            OSError: its engine has gone.
        """
        given = json.loads(made.model_config)
        keys = await asyncio.to_thread(keys_of_base, given, Path(made.backend_dir))
        settings = self._storing_alone(Settings.from_model_config(without(given, keys.not_ours(given))))
        version_dir = Path(made.version_dir)
        if not self._patched:
            await asyncio.to_thread(patch_as, Path(made.backend_dir), made.release)
            self._patched = True
        files = await asyncio.to_thread(read_files, settings, version_dir, keys)
        adapters = read_adapters(settings, version_dir, model_files.read_engine_args(version_dir))
        files = files.with_adapters(adapters or {}, enabled=adapters is not None)
        self._widen(settings)
        connection = await asyncio.to_thread(host.join_as_guest, folder, self._name)
        try:
            with tuning.without_collections():  # imports vLLM
                return await self._attached(folder, made, connection, settings, files)
        except BaseException:
            connection.leave()
            raise

    async def _attached(
        self, folder: Path, made: Offer, connection: Connection, settings: Settings, files: ModelFiles
    ) -> GuestModel:
        compiling = engine.CompileProcess()
        llm = None
        try:
            llm = engine.guest_client(connection, made.model, made.clients, log_stats=settings.report_custom_metrics)
            running = await engine.VllmEngine.attach(llm, compiling)
            share = Share(connection, self._guests)
            loop, sink = asyncio.get_running_loop(), self._sink
            common = await asyncio.to_thread(Common, running, loop, settings, files, self._handles, sink, share=share)
            common.watch.start()
        except BaseException:
            compiling.close()
            if llm is not None:
                llm.shutdown()
            raise
        return GuestModel(made, folder, llm, running, common, share)

    def _storing_alone(self, settings: Settings) -> Settings:
        """Nothing says which of several processes a client's next request reaches."""
        if self._guests == 1 or not settings.openai_stored_responses:
            return settings
        self._sink.Logger.log_warn(
            f"{settings.model_name}: no responses are stored (OPENAI_STORED_RESPONSES), since {self._guests} processes "
            "serve requests, each with a store of its own"
        )
        return settings.model_copy(update={"openai_stored_responses": 0})

    def _widen(self, settings: Settings) -> None:
        """Limits of the process are the largest of its models; each model's own are compared before."""
        pixels = max(self._pixels, settings.image_max_pixels)
        seconds = max(self._seconds, settings.render_timeout_seconds)
        if (pixels, seconds) != (self._pixels, self._seconds):
            self._pixels, self._seconds = pixels, seconds
            engine.install_connector(self._handles, pixels, seconds)
            set_pixel_limit(pixels)
