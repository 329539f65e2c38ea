"""What Triton loads: the vLLM backend that is installed (official or our stand-in), extended by vllm_custom.

All logic is in the package beside this file; this class wires it to Triton's calls.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

BACKEND_DIR = Path(__file__).parent
# In front of a wheel of vllm_custom in this Python, which may be of another version.
sys.path.insert(0, str(BACKEND_DIR))

import triton_python_backend_utils as pb_utils  # noqa: E402  (the paths above come first)

from vllm_custom import engine_args, process  # noqa: E402
from vllm_custom.config import Settings  # noqa: E402
from vllm_custom.decoders.image import set_pixel_limit  # noqa: E402
from vllm_custom.engine import vllm as engine  # noqa: E402
from vllm_custom.media import HandleTable  # noqa: E402
from vllm_custom.orphans import guard_against_orphans  # noqa: E402
from vllm_custom.serving.service import ModelFiles, Service, wait_on  # noqa: E402
from vllm_custom.triton.autocomplete import auto_complete, check_response_cache  # noqa: E402
from vllm_custom.upstream import LoadedUpstream, UpstreamAdapter, load_upstream, with_current_hooks  # noqa: E402


class Extension:
    """What is put in front of the base class: the mixin through which Triton's calls come."""

    vllm_engine_config: dict[str, Any]
    # Whether the responses of a stream that wait are sent as one.
    merge = True

    @classmethod
    def auto_complete_config(cls, auto_complete_model_config: Any) -> Any:
        return auto_complete(auto_complete_model_config)

    def initialize(self, args: dict[str, str]) -> None:
        model_config = json.loads(args["model_config"])
        check_response_cache(model_config)  # where the configuration is not completed, nobody has looked yet
        settings = Settings.from_model_config(model_config)
        self._build_on(load_upstream(BACKEND_DIR, settings.vllm_backend_dir))
        self._version_dir = Path(pb_utils.get_model_dir())
        arguments = engine_args.load_engine_args(self._version_dir, engine.engine_argument_names())
        engine.check_parsers(settings.tool_call_parser, settings.reasoning_parser)
        self._reasoning_parser = settings.reasoning_parser
        chat_template = settings.read_chat_template(self._version_dir)
        self._lora_dir = settings.find_lora_dir(self._version_dir, enable_lora=engine_args.lora_enabled(arguments))
        handles = HandleTable()
        engine.install_connector(handles, settings.image_max_pixels, settings.render_timeout_seconds)
        set_pixel_limit(settings.image_max_pixels)
        # The base serves decoupled models only and says so by an assertion; our way out does both.
        model_config["model_transaction_policy"] = {"decoupled": True}
        base: Any = super()
        guard_against_orphans(pb_utils.Logger.log_warn)
        # Its imports take as long as a good part of the engine's start.
        compiling = engine.CompileProcess()
        try:
            with process.fast_event_loops():
                base.initialize({**args, "model_config": json.dumps(model_config)})
        except BaseException:
            compiling.close()
            raise
        self.using_decoupled = settings.decoupled
        try:
            base_model = UpstreamAdapter(self)
            files = ModelFiles(
                self._version_dir.name, chat_template, self._lora_dir, base_model.adapters(), base_model.lora_enabled
            )
            running = wait_on(base_model.event_loop, engine.VllmEngine.attach(base_model.engine, compiling))
            self._service = Service(running, base_model, settings, files, handles, pb_utils, merge=self.merge)
        except BaseException:
            compiling.close()
            base.finalize()  # the engine runs already; Triton does not finalize what did not initialize
            raise
        process.share_interpreter()
        process.spare_start_up()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            try:
                self._service.runner.submit(request)
            except Exception as error:  # Triton gives no way to answer it; the others are served
                pb_utils.Logger.log_error(f"[vllm_custom] a request cannot be answered: {error!r}")

    def finalize(self) -> None:
        base: Any = super()
        base.finalize()
        self._service.close()
        # Metric families hold memory that Triton shares with this process: they have to go before the interpreter
        # does, which would otherwise end in a segmentation fault. They hang in cycles with the engine's loggers.
        del self._service
        self._vllm_metrics = None
        process.collect_everything()

    def _validate_device_config(self) -> None:
        self.vllm_engine_config = engine_args.resolve_paths(self.vllm_engine_config, self._version_dir)
        if self._reasoning_parser:
            self.vllm_engine_config["reasoning_parser"] = self._reasoning_parser
        engine.prepare_reasoning(self.vllm_engine_config)
        base: Any = super()
        base._validate_device_config()

    def _setup_lora(self) -> None:
        self.enable_lora = engine_args.lora_enabled(self.vllm_engine_config)
        if self.enable_lora:
            self.lora_repository = engine_args.load_loras(self._version_dir, required=self._lora_dir is None)
            self.supported_loras = list(self.lora_repository)

    def _build_on(self, upstream: LoadedUpstream) -> None:
        """Log the base; VLLM_BACKEND_DIR in config.pbtxt, unknown when Triton imported this file, may change it."""
        if not isinstance(self, upstream.model_class):
            self.__class__ = extend(upstream.model_class)
        log = pb_utils.Logger.log_info if upstream.release else pb_utils.Logger.log_warn
        log(f"[vllm_custom] {upstream.describe()}")


def extend(base: type) -> type:
    """The backend's class on top of ``base``, the TritonPythonModel of a vLLM backend."""
    return type("TritonPythonModel", (Extension, with_current_hooks(base)), {})


TritonPythonModel = extend(load_upstream(BACKEND_DIR, "").model_class)
