"""A model from its load to its unload: the base model with the engine, and the service in front of it."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from vllm_custom import engine_args
from vllm_custom.base_backend import BaseModelAdapter, LoadedBase, extended, host_program, load_base
from vllm_custom.base_backend.keys import BaseKeys, keys_of_base, without
from vllm_custom.contract.settings import Settings
from vllm_custom.engine import host
from vllm_custom.engine import vllm as engine
from vllm_custom.engine.host import Share
from vllm_custom.errors import ConfigError
from vllm_custom.kernel import devices, model_files
from vllm_custom.kernel.orphans import guard_against_orphans
from vllm_custom.loading import read_adapters, read_files
from vllm_custom.media.decoders.image import set_pixel_limit
from vllm_custom.media.handles import MediaHandles
from vllm_custom.observability import JsonLogger, Log
from vllm_custom.restarting import EngineRestarter
from vllm_custom.runtime import tuning
from vllm_custom.serving.service import Service, wait_on
from vllm_custom.triton.elements import bound_elements
from vllm_custom.triton.lost_instances import LostInstances
from vllm_custom.triton.retirement import Retirement

_ENGINE_END_SECONDS = 30.0


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
        given = json.loads(args["model_config"])
        keys = keys_of_base(given, backend_dir)
        self._args = args
        self._model_config = model_config = without(given, keys.not_ours(given))
        self._settings = Settings.from_model_config(model_config)
        self._version_dir = Path(pb_utils.get_model_dir())
        self._pb_utils = pb_utils
        self._log = _logger(self._settings, self._version_dir.name, pb_utils)
        bound_elements(pb_utils, self._settings)
        guard_against_orphans(self._log.log_warn, end_server=self._settings.exit_on_lost_instance)
        loaded = load_base(backend_dir, self._settings.vllm_backend_dir)
        self._announce(loaded)
        self._say_what_is_left_to_base(keys, given)
        self._join = self._joining(args, model_config, host_program(loaded.model_class, engine.HOST_PROGRAM))
        self._connection: host.Connection | None = None
        self._share: Share | None = None
        self._base: Any = None
        compiling: engine.CompileProcess | None = None
        began = time.monotonic()
        try:
            if self._settings.unload_first:
                read_files(self._settings, self._version_dir, keys)  # what is wrong costs the old engine nothing
                host.end_others(self._engine_name)
            if self._shares:  # first: it keeps an engine that is there, or imports vLLM while this process does
                self._connection = self._join()
            files = read_files(self._settings, self._version_dir, keys)
            handles = MediaHandles()
            engine.install_connector(handles, self._settings.image_max_pixels, self._settings.render_timeout_seconds)
            set_pixel_limit(self._settings.image_max_pixels)
            engine.start_cores_quickly()
            compiling = engine.CompileProcess(fork=True)
            self._base = self._started(extended(loaded.model_class, self), args, given)
            base = BaseModelAdapter(self._base)
            running = wait_on(base.event_loop, engine.VllmEngine.attach(base.engine, compiling))
            files = files.with_adapters(base.adapters(), enabled=base.lora_enabled)
            if self._connection is not None:
                self._share = Share(self._connection, self._fronts)
                if self._settings.report_custom_metrics:
                    wait_on(base.event_loop, running.report_scheduler())
            restart = self._restart(base, time.monotonic() - began)
            self._service = Service(
                running, base, self._settings, files, handles, pb_utils, merge=merge, share=self._share, restart=restart
            )
        except BaseException:
            if compiling is not None:
                compiling.close()
            if self._base is not None:
                self._base.finalize()  # the engine runs already; Triton does not finalize what did not initialize
            if self._connection is not None:
                self._connection.leave()
            raise
        self._asked = self._closing = False
        self._made = self._offer(args, backend_dir, loaded)
        if self._connection is not None:
            self._join_others(self._connection)
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

    @property
    def ready(self) -> bool:
        """Whether requests are served. Cheap; from any thread."""
        return not self._closing and self._service.ready

    def close(self) -> None:
        """Let the requests under way end, then the engine and everything around it."""
        self._closing = True
        self._service.stop_watching_engine()
        self._base.finalize()
        self._service.close()
        if self._share is not None:
            self._share.close()
        elif self._connection is not None:  # an engine of this instance's own, which has been started again
            self._connection.leave()
            host.wait_until_gone(self._connection.folder, _ENGINE_END_SECONDS)
        # Metric families hold memory that Triton shares with this process: they have to go before the interpreter
        # does, which would otherwise end in a segmentation fault. They hang in cycles with the engine's loggers.
        del self._service
        self._base._vllm_metrics = None
        del self._base
        tuning.collect_before_exit()

    def engine_arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """Paths resolved, and config.pbtxt's parser for reasoning in its place."""
        arguments = engine_args.resolve_paths(given, self._version_dir)
        if self._settings.reasoning_parser:
            arguments["reasoning_parser"] = self._settings.reasoning_parser
        engine.prepare_reasoning(arguments)
        return arguments

    def visible_devices(self, arguments: Mapping[str, Any]) -> str | None:
        """The GPUs of GPU_DEVICE_IDS, or Triton's of instance_group, as the machine numbers them."""
        inherited = os.environ.get(devices.VARIABLE)
        chosen = devices.devices_of(self._model_config, self._args, arguments, inherited)
        if chosen is None:
            return None
        self._log.log_info(f"[vllm_custom] {chosen.reason}")
        return chosen.visible

    def lora_adapters(self, arguments: Mapping[str, Any]) -> dict[str, str] | None:
        """multi_lora.json, which may be missing where LORA_DIR is set."""
        return read_adapters(self._settings, self._version_dir, arguments)

    def _started(self, base: type, args: Mapping[str, str], model_config: dict[str, Any]) -> Any:
        # The base serves decoupled models only and says so by an assertion; our way out does both.
        model_config["model_transaction_policy"] = {"decoupled": True}
        # All of vLLM's metrics are reported here (triton/engine_metrics.py); the base has eight of them.
        model_config.setdefault("parameters", {})["REPORT_CUSTOM_METRICS"] = {"string_value": "false"}
        model_config["parameters"].pop(devices.PARAMETER, None)
        model: Any = base()
        with tuning.fast_event_loops(), self._engine_of_others():
            model.initialize({**args, "model_config": json.dumps(model_config)})
        model.using_decoupled = self._settings.decoupled
        return model

    def _joining(
        self, args: Mapping[str, str], model_config: Mapping[str, Any], program: str
    ) -> Callable[[], host.Connection]:
        """What connects to the host of the engine: that of all instances, or of this one's own once it has died."""
        self._fronts = host.fronts_of(model_config, args)
        guests = host.guests_announced()
        self._clients = self._fronts + guests
        wanted = self._settings.share_engine
        if guests and "SHARE_ENGINE" not in model_config.get("parameters", {}):
            wanted = "auto"  # whoever starts the server has asked for them
        if self._settings.unload_first:
            if wanted == "false":
                raise ConfigError("config.pbtxt: parameter UNLOAD_FIRST: expected false, as SHARE_ENGINE is false")
            wanted = "true"
        self._shares = wanted == "true" or (wanted == "auto" and self._clients > 1)
        instance = args["model_instance_name"]
        owner = [] if self._shares else [instance]
        name = host.engine_name(model_config, args, self._version_dir, self._settings.reasoning_parser, *owner)
        self._engine_name = name
        grace = self._settings.engine_grace_period if self._shares else 0
        stall = self._settings.engine_stall_seconds
        return functools.partial(host.join, name, instance, program, grace, self._settings.instances_replaced, stall)

    def _restart(self, base: BaseModelAdapter, seconds: float) -> EngineRestarter | None:
        """What starts the engine again, which took ``seconds`` the first time; None where nobody does."""
        if not self._settings.engine_restarts:
            return None
        try:
            replacement = engine.EngineReplacement(base.engine, self._clients)
        except ConfigError as error:
            self._log.log_warn(f"[vllm_custom] ENGINE_RESTARTS: {error}")
            return None
        return EngineRestarter(
            replacement, base.event_loop, self._join, self._adopt, self._is_first_to_note_the_end, seconds
        )

    def _is_first_to_note_the_end(self) -> bool:
        return self._share is None or self._share.is_first_to_note_the_end()

    def _adopt(self, connection: host.Connection) -> None:
        """The engine runs again, behind ``connection``."""
        before, self._connection = self._connection, connection
        self._asked = False
        if before is not None:
            before.leave()
        if self._share is not None:
            self._share.move(connection)
            self._join_others(connection)

    def _join_others(self, connection: host.Connection) -> None:
        self._watch_others(connection)
        try:
            host.offer(connection.folder, self._made)
        except OSError as error:
            self._log.log_warn(f"[vllm_custom] the direct server cannot find this model: {error.strerror}")

    def _offer(self, args: Mapping[str, str], backend_dir: Path, loaded: LoadedBase) -> host.Offer:
        """What a process that serves OpenAI's API by itself needs, to serve this model as this one does."""
        return host.Offer(
            model=self._settings.model_name,
            version=self._version_dir.name,
            server=os.getppid(),
            clients=self._clients,
            model_config=json.dumps(_lasting(self._model_config), sort_keys=True),
            version_dir=str(self._version_dir),
            backend_dir=str(backend_dir),
            release=loaded.release,
        )

    def _watch_others(self, connection: host.Connection) -> None:
        """Say so when the process of another instance was killed, and end when others have replaced this one."""
        base = BaseModelAdapter(self._base)
        LostInstances(connection, is_wanted=lambda: not base.shutting_down and self._is_loaded(), log=self._log)
        Retirement(connection, lambda: base.running, self._is_loaded, self._log)
        connection.when_replaced(self._service.make_way)

    def _is_loaded(self) -> bool:
        """Triton 26.06 and later call a model not ready whose engine is being started again."""
        if self._closing:
            return False
        name = self._settings.model_name
        return not self._service.ready or bool(self._pb_utils.is_model_ready(model_name=name))

    def _engine_of_others(self) -> AbstractContextManager[None]:
        return engine.attached(self._connection, self._clients) if self._connection is not None else nullcontext()

    def _say_what_is_left_to_base(self, keys: BaseKeys, model_config: Mapping[str, Any]) -> None:
        arguments = model_files.read_engine_args(self._version_dir)
        left = [f"config.pbtxt: parameter {key}" for key in keys.not_ours(model_config)]
        if others := keys.engine_arguments & set(arguments) - engine_args.names_in_source():
            left += [f"{model_files.ENGINE_ARGS_FILE}: {key}" for key in sorted(others)]
        for key in left:
            self._log.log_warn(f"[vllm_custom] {key}: left to the vLLM backend, which knows it; vllm_custom does not")

    def _announce(self, loaded: LoadedBase) -> None:
        log = self._log.log_info if loaded.release else self._log.log_warn
        log(f"[vllm_custom] {loaded.describe()}")


def _logger(settings: Settings, version: str, pb_utils: Any) -> Log:
    if settings.log_format == "json":
        return JsonLogger({"model": settings.model_name, "version": version})
    logger: Log = pb_utils.Logger
    return logger


def _lasting(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """What stays of Triton's configuration when it replaces the instances of a model: guests stay then as well."""
    kept = {key: value for key, value in model_config.items() if key != "instance_group"}
    parameters = {key: value for key, value in kept.get("parameters", {}).items() if key != "INSTANCES_REPLACED"}
    return kept | {"parameters": parameters}
