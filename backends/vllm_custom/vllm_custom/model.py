"""A model from its load to its unload: the base model with the engine, and the service in front of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from vllm_custom import engine_args
from vllm_custom.base_backend import BaseModelAdapter, LoadedBase, extended, host_program, load_base
from vllm_custom.contract.settings import Settings
from vllm_custom.engine import host
from vllm_custom.engine import vllm as engine
from vllm_custom.engine.host import Share
from vllm_custom.kernel.orphans import guard_against_orphans
from vllm_custom.loading import read_adapters, read_files
from vllm_custom.media.decoders.image import set_pixel_limit
from vllm_custom.media.handles import MediaHandles
from vllm_custom.runtime import tuning
from vllm_custom.serving.service import Service, wait_on
from vllm_custom.triton.elements import bound_elements
from vllm_custom.triton.lost_instances import LostInstances
from vllm_custom.triton.retirement import Retirement


class Model:
    """One version of a model on one instance of Triton."""

    def __init__(self, args: Mapping[str, str], backend_dir: Path, pb_utils: Any, *, merge: bool = True) -> None:
        """Load it: check what model.json says, start the engine, put the service together.

        What needs no vLLM has been checked before (preflight.py).

        Args:
            args: of Triton's ``initialize``.
            backend_dir: the folder of this backend.
            pb_utils: Triton's module.
            merge: whether what waits of a stream is sent as one response.

        Raises:
            ConfigError: what is wrong with the model's configuration.
        """
        model_config = json.loads(args["model_config"])
        self._settings = Settings.from_model_config(model_config)
        self._version_dir = Path(pb_utils.get_model_dir())
        self._log = pb_utils.Logger
        bound_elements(pb_utils, self._settings)
        guard_against_orphans(self._log.log_warn, end_server=self._settings.exit_on_lost_instance)
        loaded = load_base(backend_dir, self._settings.vllm_backend_dir)
        self._announce(loaded)
        files = read_files(self._settings, self._version_dir)
        handles = MediaHandles()
        engine.install_connector(handles, self._settings.image_max_pixels, self._settings.render_timeout_seconds)
        set_pixel_limit(self._settings.image_max_pixels)
        # Before anything that takes long: it keeps an engine that is there, and starts one that is not.
        self._connection = self._joined(args, model_config, host_program(loaded.model_class, engine.HOST_PROGRAM))
        self._share: Share | None = None
        # Its imports take as long as a good part of the engine's start.
        compiling = engine.CompileProcess()
        self._base: Any = None
        try:
            self._base = self._started(extended(loaded.model_class, self), args, model_config)
            base = BaseModelAdapter(self._base)
            running = wait_on(base.event_loop, engine.VllmEngine.attach(base.engine, compiling))
            files = files.with_adapters(base.adapters(), enabled=base.lora_enabled)
            if self._connection is not None:
                self._share = Share(self._connection, self._fronts)
            self._service = Service(
                running, base, self._settings, files, handles, pb_utils, merge=merge, share=self._share
            )
        except BaseException:
            compiling.close()
            if self._base is not None:
                self._base.finalize()  # the engine runs already; Triton does not finalize what did not initialize
            if self._connection is not None:
                self._connection.leave()
            raise
        self._asked = False
        if self._connection is not None:
            self._watch_others(self._connection, pb_utils)
            host.offer(self._connection.folder, self._offer(args, backend_dir, loaded))
        tuning.set_switch_interval()
        tuning.freeze_gc_heap()

    def submit(self, request: Any) -> None:
        """Serve one of Triton's requests; returns soon."""
        if self._connection is not None and not self._asked:
            self._asked = True
            self._connection.serving()
        try:
            self._service.runner.submit(request)
        except Exception as error:  # Triton gives no way to answer it; the others are served
            self._log.log_error(f"[vllm_custom] a request cannot be answered: {error!r}")

    def close(self) -> None:
        """Let the requests under way end, then the engine and everything around it."""
        self._base.finalize()
        self._service.close()
        if self._share is not None:
            self._share.close()
        # Metric families hold memory that Triton shares with this process: they have to go before the interpreter
        # does, which would otherwise end in a segmentation fault. They hang in cycles with the engine's loggers.
        del self._service
        self._base._vllm_metrics = None
        del self._base
        tuning.unfreeze_and_collect()

    def engine_arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """Paths resolved, and config.pbtxt's parser for reasoning in its place."""
        arguments = engine_args.resolve_paths(given, self._version_dir)
        if self._settings.reasoning_parser:
            arguments["reasoning_parser"] = self._settings.reasoning_parser
        engine.prepare_reasoning(arguments)
        return arguments

    def lora_adapters(self, arguments: Mapping[str, Any]) -> dict[str, str] | None:
        """multi_lora.json, which may be missing where LORA_DIR is set."""
        return read_adapters(self._settings, self._version_dir, arguments)

    def _started(self, base: type, args: Mapping[str, str], model_config: dict[str, Any]) -> Any:
        # The base serves decoupled models only and says so by an assertion; our way out does both.
        model_config["model_transaction_policy"] = {"decoupled": True}
        model: Any = base()
        with tuning.fast_event_loops(), self._engine_of_others():
            model.initialize({**args, "model_config": json.dumps(model_config)})
        model.using_decoupled = self._settings.decoupled
        return model

    def _joined(self, args: Mapping[str, str], model_config: Mapping[str, Any], program: str) -> host.Connection | None:
        """A connection to the engine of all instances; None where this one has an engine of its own."""
        self._fronts = host.fronts_of(model_config, args)
        guests = host.guests_announced()
        self._clients = self._fronts + guests
        wanted = self._settings.share_engine
        if guests and "SHARE_ENGINE" not in model_config.get("parameters", {}):
            wanted = "auto"  # whoever starts the server has asked for them
        if wanted == "false" or (wanted == "auto" and self._clients == 1):
            return None
        name = host.engine_name(args, self._version_dir, self._settings.reasoning_parser)
        grace = self._settings.engine_grace_period
        generation = self._settings.instances_replaced
        return host.join(name, args["model_instance_name"], program, grace, generation)

    def _offer(self, args: Mapping[str, str], backend_dir: Path, loaded: LoadedBase) -> host.Offer:
        """What a process that serves OpenAI's API by itself needs, to serve this model as this one does."""
        return host.Offer(
            model=self._settings.model_name,
            version=self._version_dir.name,
            server=os.getppid(),
            clients=self._clients,
            model_config=json.dumps(_lasting(json.loads(args["model_config"])), sort_keys=True),
            version_dir=str(self._version_dir),
            backend_dir=str(backend_dir),
            release=loaded.release,
        )

    def _watch_others(self, connection: host.Connection, pb_utils: Any) -> None:
        """Say so when the process of another instance was killed, and end when others have replaced this one."""
        name, base = self._settings.model_name, BaseModelAdapter(self._base)
        LostInstances(
            connection,
            is_wanted=lambda: not base.shutting_down and pb_utils.is_model_ready(model_name=name),
            log=self._log,
        )
        Retirement(connection, lambda: base.running, lambda: pb_utils.is_model_ready(model_name=name), self._log)

    def _engine_of_others(self) -> AbstractContextManager[None]:
        return engine.attached(self._connection, self._clients) if self._connection is not None else nullcontext()

    def _announce(self, loaded: LoadedBase) -> None:
        log = self._log.log_info if loaded.release else self._log.log_warn
        log(f"[vllm_custom] {loaded.describe()}")


def _lasting(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """What stays of Triton's configuration when it replaces the instances of a model: guests stay then as well."""
    kept = {key: value for key, value in model_config.items() if key != "instance_group"}
    parameters = {key: value for key, value in kept.get("parameters", {}).items() if key != "INSTANCES_REPLACED"}
    return kept | {"parameters": parameters}
