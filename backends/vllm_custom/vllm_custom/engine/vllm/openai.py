"""vLLM's OpenAI application."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vllm_custom.contract.routes import FORM_PATHS, OPENAI_PATHS
from vllm_custom.engine.background import NO_STORAGE, Storage
from vllm_custom.engine.protocol import AdaptersInUse, Application
from vllm_custom.engine.vllm.bodies import read_bodies_in_threads
from vllm_custom.engine.vllm.long_answers import build_long_answers_in_threads
from vllm_custom.engine.vllm.older import find
from vllm_custom.engine.vllm.quiet import hide_url_secrets, quieten_refusals, root_level_kept
from vllm_custom.engine.vllm.requests import lora_request
from vllm_custom.engine.vllm.speech import leave_audio_limits_to_us
from vllm_custom.engine.vllm.stored import bound_stored_responses

_COUNTING_MIDDLEWARE = "PrometheusInstrumentatorMiddleware"


async def build_openai_application(
    engine: Any,
    served_names: Sequence[str],
    arguments: Mapping[str, Any],
    adapters: AdaptersInUse,
    storage: Storage = NO_STORAGE,
) -> Application:
    """vLLM's OpenAI application on ``engine``, as ``vllm serve`` builds it; to be called over ASGI.

    Args:
        engine: the AsyncLLM. Run this on its event loop.
        served_names: what requests may call the model; answers carry the first.
        arguments: of vLLM's server, by the names of its command line with underscores.
        adapters: become models of the application, by their own names.
        storage: how many responses of the Responses API it keeps.
    """
    from types import SimpleNamespace

    from vllm.entrypoints.cli.serve import make_arg_parser, validate_parsed_serve_args

    parser = find("FlexibleArgumentParser", "vllm.utils.argparse_utils", "vllm.utils")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the module's new place is not in all versions
        from vllm.entrypoints.openai.api_server import build_app, init_app_state

    args = make_arg_parser(parser()).parse_args([])
    # The root of a model card: not the path of the weights, which clients are not to see.
    args.model, args.served_model_name = served_names[0], list(served_names)
    args.structured_outputs_config = engine.vllm_config.structured_outputs_config
    args.disable_log_stats = not engine.log_stats
    args.api_key = [""]  # with None vLLM would ask for the VLLM_API_KEY of tritonserver's environment
    for name, value in arguments.items():
        setattr(args, name, value)
    validate_parsed_serve_args(args)
    quieten_refusals()
    hide_url_secrets()
    tasks = await engine.get_supported_tasks()
    known = {
        "args": args,
        "engine_client": engine,
        "vllm_config": engine.vllm_config,
        "model_config": engine.model_config,
        "supported_tasks": tasks,
    }
    with root_level_kept():
        application = _call(build_app, known)
    # It counts requests once more, where no endpoint shows it.
    kept = [one for one in application.user_middleware if one.cls.__name__ != _COUNTING_MIDDLEWARE]
    application.user_middleware[:] = kept
    await _call(init_app_state, {**known, "state": application.state})
    application.state.server = SimpleNamespace(should_exit=False)  # the server it would stop when the engine has died
    _serve_adapters(application.state.openai_serving_models, adapters)
    leave_audio_limits_to_us(application)
    bound_stored_responses(getattr(application.state, "openai_serving_responses", None), storage)
    reading = read_bodies_in_threads(application, OPENAI_PATHS - FORM_PATHS)
    return build_long_answers_in_threads(reading, application.state)


def _call(function: Callable[..., Any], known: Mapping[str, Any]) -> Any:
    """With what it takes of this: versions of vLLM differ in that."""
    return function(**{name: known[name] for name in inspect.signature(function).parameters if name in known})


class _LoraRequests(Mapping[str, Any]):
    """What vLLM looks an adapter up in: it holds the one that this request has taken, and no other.

    Adapters may be replaced while requests run, so two requests may mean different weights by one name.
    """

    def __init__(self, adapters: AdaptersInUse) -> None:
        self._adapters = adapters

    def __getitem__(self, name: str) -> Any:
        taken = self._adapters.current()
        if taken is None or taken[0] != name:
            raise KeyError(name)
        return lora_request(taken[1])

    def __iter__(self) -> Iterator[str]:
        taken = self._adapters.current()
        return iter(()) if taken is None else iter((taken[0],))

    def __len__(self) -> int:
        return 0 if self._adapters.current() is None else 1


def _serve_adapters(models: Any, adapters: AdaptersInUse) -> None:
    """Make ``models``, vLLM's OpenAIServingModels, know the adapters of this model by their own names."""
    base_models = models.show_available_models

    async def show_available_models() -> Any:
        cards = await base_models()
        (first, *_) = cards.data
        for name in await adapters.names():
            cards.data.append(first.model_copy(update={"id": name, "root": name, "parent": first.id}))
        return cards

    def model_name(lora_request: Any = None) -> str:
        taken = adapters.current()
        return taken[0] if lora_request is not None and taken is not None else models.base_model_paths[0].name

    models.lora_requests = _LoraRequests(adapters)
    models.show_available_models = show_available_models
    models.model_name = model_name
