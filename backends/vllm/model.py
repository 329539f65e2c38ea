"""Triton Python model that serves vLLM: a stand-in for the official vLLM backend, with the same contract.

This class is the life cycle and the wiring; what it wires is in `vllm_backend_lib`. Its attributes and steps carry
the names of the official backend's release r26.01, so that one subclass works on either.
"""

from __future__ import annotations

import locale

# Triton's stub runs Python isolated, in the C locale and deaf to PYTHONUTF8: without UTF-8 here, importing vLLM fails
# on the first source or template file that is not ASCII.
locale.setlocale(locale.LC_ALL, "C.UTF-8")

import asyncio  # noqa: E402
import contextlib  # noqa: E402
import gc  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import queue  # noqa: E402
import threading  # noqa: E402
import traceback  # noqa: E402
import uuid  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import triton_python_backend_utils as pb_utils  # noqa: E402
from vllm_backend_lib.binding import to_response, to_triton_error  # noqa: E402
from vllm_backend_lib.cancellation import CancellationWatcher  # noqa: E402
from vllm_backend_lib.contract import DECOUPLED_ONLY, Inputs, add_missing_tensors, check_policies  # noqa: E402
from vllm_backend_lib.engine import EngineThread, build_engine  # noqa: E402
from vllm_backend_lib.engine_args import bool_parameter, build_engine_args  # noqa: E402
from vllm_backend_lib.errors import from_engine_error  # noqa: E402
from vllm_backend_lib.interfaces import SafeLogger  # noqa: E402
from vllm_backend_lib.kernel import devices, errors, model_files, official_texts, orphans  # noqa: E402
from vllm_backend_lib.lora import LoraAdapters, check_lora_name, read_lora_repository  # noqa: E402
from vllm_backend_lib.replies import FINAL, Reply, ReplyThread  # noqa: E402
from vllm_backend_lib.requests import EMBED_TASK, parse_embed, parse_generate, requested_lora, task_of  # noqa: E402
from vllm_backend_lib.responses import TextEncoder, encode_embedding  # noqa: E402


class TritonPythonModel:
    """What Triton's stub instantiates, once per model instance."""

    @classmethod
    def auto_complete_config(cls, auto_complete_model_config: Any) -> Any:
        """Adds the backend's tensors, the decoupled policy and no batching to the model configuration."""
        check_policies(auto_complete_model_config.as_dict())
        cls._auto_complete_inputs_and_outputs(auto_complete_model_config)
        auto_complete_model_config.set_model_transaction_policy({"decoupled": True})
        auto_complete_model_config.set_max_batch_size(0)  # vLLM batches by itself
        return auto_complete_model_config

    @staticmethod
    def _auto_complete_inputs_and_outputs(auto_complete_model_config: Any) -> None:
        add_missing_tensors(auto_complete_model_config)

    # Start

    def initialize(self, args: dict[str, str]) -> None:
        """Starts the engine and the threads around it; whatever it raises becomes Triton's load failure."""
        self.args = args
        self.logger = SafeLogger(pb_utils.Logger)
        orphans.guard_against_orphans(self.logger.log_warn)
        self.model_config: dict[str, Any] = json.loads(args["model_config"])
        text_output = pb_utils.get_output_config_by_name(self.model_config, "text_output")
        self.output_dtype = pb_utils.triton_string_to_numpy(text_output["data_type"])
        self._enable_health_check = self._get_bool_config_param("ENABLE_VLLM_HEALTH_CHECK")
        self._is_healthy = True
        report_metrics = self._get_bool_config_param("REPORT_CUSTOM_METRICS")
        self._vllm_metrics: list[Any] = []
        self.enable_lora = False
        self.lora_repository: dict[str, str] = {}
        self.supported_loras: list[str] = []

        self._init_engine_args()
        self._enable_metrics = report_metrics and not self._aync_engine_args.disable_log_stats
        try:
            self._setup_metrics()
            self._init_engine()
        except BaseException:
            self._finalize_metrics()
            raise
        self._start_replies()

    def _init_engine_args(self) -> None:
        self.using_decoupled = pb_utils.using_decoupled_model_transaction_policy(self.model_config)
        if not self.using_decoupled:
            raise errors.ConfigError(DECOUPLED_ONLY)
        self.vllm_engine_config = model_files.read_engine_args(Path(pb_utils.get_model_dir()))
        self._validate_device_config()
        self._setup_lora()
        config = dict(self.vllm_engine_config)
        if "enable_lora" in config:
            config["enable_lora"] = self.enable_lora  # a string such as "false" would count as true in vLLM
        self._aync_engine_args = build_engine_args(config)

    def _validate_device_config(self) -> None:
        inherited = os.environ.get(devices.VARIABLE)
        chosen = devices.devices_of(self.model_config, self.args, self.vllm_engine_config, inherited)
        if chosen is not None:
            self.logger.log_info(f"[vllm] {chosen.reason}")
            os.environ[devices.VARIABLE] = chosen.visible

    def _setup_lora(self) -> None:
        self.enable_lora = model_files.lora_enabled(self.vllm_engine_config)
        if self.enable_lora:
            self.lora_repository = read_lora_repository(Path(pb_utils.get_model_dir()))
            self.supported_loras = list(self.lora_repository)

    def _setup_metrics(self) -> None:
        self._vllm_metrics = []
        if self._enable_metrics:
            # Imported late, as it brings in vLLM: see the package's docstring.
            from vllm_backend_lib.metrics import StatLoggerFactory

            labels = {"model": self.args["model_name"], "version": self.args["model_version"]}
            self._vllm_metrics.append(StatLoggerFactory(labels, self.logger))

    def _init_engine(self) -> None:
        self._ongoing_request_count = 0  # changed on the event loop only
        self._engine_thread = EngineThread(
            lambda: build_engine(self._aync_engine_args, self._vllm_metrics),
            lambda: self._ongoing_request_count,
            self.logger,
        )
        self._engine_thread.start()
        self._llm_engine = self._engine_thread.engine
        self._event_loop = self._engine_thread.loop
        self._event_thread = self._engine_thread.thread
        self._llm_engine_shutdown_event = self._engine_thread.shutdown_event
        self.supported_tasks = self._engine_thread.supported_tasks

    def _start_replies(self) -> None:
        self._loras = LoraAdapters(self.lora_repository, self.logger)
        self._response_queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._replies = ReplyThread(self._response_queue, self._on_final_response, self.logger, to_response)
        self._replies.start()
        self._response_thread: threading.Thread | None = self._replies.thread
        self._watcher = CancellationWatcher(self.logger)
        self._watcher.start()

    def _get_bool_config_param(self, param_name: str) -> bool:
        return bool_parameter(self.model_config.get("parameters", {}), param_name)

    # Requests

    def execute(self, requests: list[Any]) -> None:
        """Hands every request to the event loop and returns; answers follow through the response senders."""
        if self._enable_health_check and not self._check_health(requests):
            return
        for request in requests:
            try:
                if self._llm_engine_shutdown_event.is_set():
                    raise errors.UnavailableError("the model is being unloaded")
                verified = self._verify_loras(request)
                if verified is not None:
                    asyncio.run_coroutine_threadsafe(self._infer(verified), self._event_loop)
            except BaseException as error:  # one bad request must not touch the others
                self._answer_error(request, error)

    async def _infer(self, request: Any) -> None:
        """Answers one request: any number of chunks, then exactly one final response."""
        self._ongoing_request_count += 1
        reply = Reply(request.get_response_sender(), self._response_queue, self._watcher, to_response)
        task = asyncio.current_task()
        assert task is not None
        self._watcher.watch(reply.state, task)
        request_id = uuid.uuid4().hex
        try:
            if self._validate_request_task_name(request) == EMBED_TASK:
                await self._embed(request, reply, request_id)
            else:
                await self._generate(request, reply, request_id)
            if not reply.finished:
                raise errors.InternalError(f"the engine gave no final output for request {request_id}")
        except BaseException as error:  # the client gets every failure: a panic of a Rust library is no Exception
            reply.fail(from_engine_error(error, request_id))
            self._log_failure(error, request_id)
            if reply.state["is_cancelled"]:
                self.logger.log_info(official_texts.CANCELLED)

    async def _generate(self, request: Any, reply: Reply, request_id: str) -> None:
        call = parse_generate(request, Inputs(request))
        prefix = call.prompt if call.prepend_prompt else ""
        encoder = TextEncoder(call.sampling_params.n, prefix, call.additional_outputs, logprobs=not call.sums_logprobs)
        async for output in call.outputs(self._llm_engine, self._loras, request_id):
            if not output.finished:
                await reply.drain()
            if call.stream or output.finished:
                reply.send(encoder.encode(output), final=output.finished)

    async def _embed(self, request: Any, reply: Reply, request_id: str) -> None:
        call = parse_embed(Inputs(request))
        async for output in call.outputs(self._llm_engine, request_id):
            reply.send(encode_embedding(output, call.additional_outputs), final=True)

    def _validate_request_task_name(self, request: Any) -> str:
        task = task_of(Inputs(request))
        if task not in self.supported_tasks:
            raise errors.InvalidRequestError(
                f"the model {self.args['model_name']!r} does not support {task!r} requests; "
                f"supported: {', '.join(self.supported_tasks)}"
            )
        return task

    def _verify_loras(self, request: Any) -> Any:
        """The request, or None after it has been answered because it names an adapter that there is not."""
        try:
            name = requested_lora(request, Inputs(request))
            if name is not None:
                check_lora_name(name, self.enable_lora, self.supported_loras)
        except errors.BackendError as error:
            self._answer_error(request, error)
            return None
        return request

    def _check_health(self, requests: list[Any]) -> bool:
        """Whether the engine is alive; if not, the requests are answered and the model is unloaded."""
        if self._is_healthy:
            check = asyncio.run_coroutine_threadsafe(self._llm_engine.check_health(), self._event_loop)
            try:
                check.result()
            except Exception as error:  # whatever it is, the engine is not well
                self._is_healthy = False
                self.logger.log_error(f"[vllm] the engine is not healthy, unloading the model: {error}")
                pb_utils.unload_model(self.model_config["name"])  # does not wait for it
        if not self._is_healthy:
            for request in requests:
                self._answer_error(request, errors.UnavailableError(official_texts.UNHEALTHY))
        return self._is_healthy

    # Answers

    def respond_error(self, request: Any, error_message: str, error: Any) -> None:
        """Answers a request that has no response under way with an error, at once."""
        response = pb_utils.InferenceResponse(error=error)
        request.get_response_sender().send(response, flags=FINAL)

    def _answer_error(self, request: Any, error: BaseException) -> None:
        request_id = uuid.uuid4().hex
        explained = from_engine_error(error, request_id)
        try:
            self.respond_error(request, str(explained), to_triton_error(explained))
        except Exception as problem:  # the request has gone; those after it have not
            self.logger.log_error(f"[vllm] request {request_id} cannot be answered: {problem!r}")
        self._log_failure(error, request_id)

    def _log_failure(self, error: BaseException, request_id: str) -> None:
        """After the answer. Bugs leave their trace in the log under the request's id."""
        explained = from_engine_error(error, request_id)
        if isinstance(explained, errors.InternalError):
            trace = "".join(traceback.format_exception(error))
            self.logger.log_error(f"[vllm] request {request_id} failed: {trace}")
        else:
            self.logger.log_verbose(f"[vllm] request {request_id}: {explained.triton_code}: {explained}")

    def _on_final_response(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: no thread waits for the count any more
            self._event_loop.call_soon_threadsafe(self._count_answered)

    def _count_answered(self) -> None:
        self._ongoing_request_count -= 1

    # End

    def finalize(self) -> None:
        """Waits for the ongoing requests, then ends the engine, its processes and all threads."""
        self.logger.log_info("[vllm] finalizing")
        self._engine_thread.stop()
        self._event_thread = None
        self._llm_engine = None
        self._watcher.stop()
        self._replies.stop()
        self._response_thread = None
        self._finalize_metrics()
        # With tensor parallelism, references that are left over would keep the stub alive; and metric families have to
        # go before Triton's shared memory does, or the stub ends in a segmentation fault.
        self._vllm_metrics = []
        gc.collect()

    def _finalize_metrics(self) -> None:
        for factory in self._vllm_metrics:
            factory.finalize()
