"""What this backend asks of an engine. :mod:`vllm_custom.engine.vllm` answers with vLLM, the tests also with a fake.

vLLM's own names are kept where its objects pass through: outputs have the attributes of its RequestOutput and
PoolingRequestOutput, prompts are its prompt dictionaries, parameters its SamplingParams and PoolingParams.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy.typing as npt

from vllm_custom.engine.answers import AnswerParsers
from vllm_custom.engine.background import NO_STORAGE, Storage
from vllm_custom.engine.embeds import EmbedsLayout
from vllm_custom.engine.statistics import Statistics
from vllm_custom.engine.vision import VisionRules
from vllm_custom.errors import BackendError

Application = Any  # an ASGI application

# One vector of numbers for the whole prompt, or one for each of its tokens; the first that a model has is its default.
POOLING_TASKS = ("embed", "classify", "token_embed", "token_classify")


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model once its engine runs, and does not change.

    Attributes:
        tasks: ``generate``, or tasks of pooling models such as ``embed`` and ``classify``.
        pooling_task: the task of a pooling model where a request names none.
        media_limits: modality to the number of items that one prompt may hold; empty for text models.
        audio_rate: samples per second that the model's processor wants; None where it takes none or any.
        frame_sampling: ``num_frames`` and ``fps`` of media_io_kwargs in model.json.
        image_options: ``image`` of media_io_kwargs in model.json.
        default_sampling: sampling parameters of the model's generation_config.
        max_tokens_limit: the most tokens that any request may generate, set by the operator; None for no limit.
        sampling_fields, pooling_fields, scoring_fields: name to type of what a request may set.
        has_chat_template: whether the model brings a chat template.
        template_arguments: names of arguments of what applies a chat template, which are no variables of the template.
        max_prompt_chars: characters that a prompt may have, since more cannot fit into the context; None where the
            engine has no tokenizer.
        max_prompt_tokens: tokens of the context; None where that is not known.
        prompt_embeds_size: hidden size of embeddings in place of a prompt; None where the engine takes none.
        data_parallel_ranks: engines among which a request may choose one.
        min_pixels, max_pixels: what the model's processor enlarges and reduces images to; None where it does not say.
        traces: whether the engine reports spans (otlp_traces_endpoint).
        on_one_host: whether all workers of the engine see the files of this machine.
        prefers_xgrammar: whether structured outputs are compiled by xgrammar where that can do it.
        constraint_options: options of StructuredOutputsParams by name, as the engine carries them out for all requests:
            those of one request change nothing.
    """

    tasks: tuple[str, ...] = ("generate",)
    pooling_task: str | None = None
    media_limits: Mapping[str, int] = field(default_factory=dict)
    audio_rate: int | None = None
    frame_sampling: Mapping[str, Any] = field(default_factory=dict)
    image_options: Mapping[str, Any] = field(default_factory=dict)
    default_sampling: Mapping[str, Any] = field(default_factory=dict)
    max_tokens_limit: int | None = None
    sampling_fields: Mapping[str, Any] = field(default_factory=dict)
    pooling_fields: Mapping[str, Any] = field(default_factory=dict)
    scoring_fields: Mapping[str, Any] = field(default_factory=dict)
    has_chat_template: bool = False
    template_arguments: frozenset[str] = frozenset()
    max_prompt_chars: int | None = None
    max_prompt_tokens: int | None = None
    prompt_embeds_size: int | None = None
    data_parallel_ranks: int = 1
    min_pixels: int | None = None
    max_pixels: int | None = None
    traces: bool = False
    on_one_host: bool = True
    prefers_xgrammar: bool = True
    constraint_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def generates(self) -> bool:
        """Whether the model generates text; else it is a pooling model."""
        return "generate" in self.tasks


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter as the engine knows it; ``number`` is its id."""

    name: str
    number: int
    path: str


@dataclass(frozen=True)
class RunOptions:
    """What the engine gets with a prompt and its parameters; ``reasoning`` is a ChatReading's."""

    request_id: str
    adapter: Adapter | None = None
    priority: int = 0
    trace_headers: Mapping[str, str] | None = None
    session_id: str | None = None
    data_parallel_rank: int | None = None
    reasoning: Mapping[str, Any] | None = None


class MediaHandles(Protocol):
    """Media by handle: a URL that stands for media which are loaded, or will be when they are asked for."""

    def resolve(self, url: str) -> Any:
        """Media that are loaded. Raises: RefusedMediaError: there are none for ``url``."""

    async def resolve_async(self, url: str) -> Any:
        """Media, loaded now where they are not yet. Raises: RefusedMediaError: there are none, or they are refused."""


@dataclass(frozen=True)
class Verdict:
    """What vLLM's own check of an accepted StructuredOutputsParams found.

    Attributes:
        backend: the compiler that it chose.
        automatic: whether there was a choice.
        as_grammar: whether it writes the choices as a grammar.
    """

    backend: str
    automatic: bool
    as_grammar: bool


class SlowConstraintError(Exception):
    """It did not compile in time."""


class DeadlyConstraintError(Exception):
    """It crashed its compiler, or took more memory than there is for it."""


class RefusedConstraintError(Exception):
    """vLLM refuses it; the message, for the client, says why."""


# Kind, value and other options of a constraint, to what the engine's own check of it finds.
Accept: TypeAlias = Callable[[str, Any, Mapping[str, Any]], Awaitable[Verdict]]

# SamplingParams, and the number of tokens of the prompt. Raises RefusedInVllmError.
CheckPrompt: TypeAlias = Callable[[Any, int], None]


class ConstraintChecker(Protocol):
    """Says whether the engine can take a constraint, by compiling it as the engine would."""

    async def start(self) -> None:
        """Be ready, so that the first constraint need not wait. Raises: UnavailableError: that is not possible."""

    async def compile(self, kind: str, value: Any, options: Mapping[str, Any]) -> Verdict:
        """The verdict on a constraint that the engine can take.

        Raises: RefusedConstraintError, SlowConstraintError, DeadlyConstraintError: it can not;
        UnavailableError: nothing can be compiled now.
        """

    def close(self) -> None:
        """Release what compiles."""


class PairScoring(Protocol):
    """How a model scores pairs of texts."""

    @property
    def templated(self) -> bool:
        """Whether ``instruction`` and ``chat_template_kwargs`` reach the prompts."""

    def begin(self, queries: Sequence[str], documents: Sequence[str], options: Mapping[str, Any]) -> Any:
        """The engine's account of one score request."""

    async def parts(self, account: Any) -> Sequence[Any]:
        """What becomes one prompt each, in order."""

    async def render(self, part: Any) -> tuple[Mapping[str, Any], Any]:
        """The prompt and the PoolingParams of one part."""

    def scores(self, account: Any, outputs: Sequence[Any]) -> list[float]:
        """One score for each document, from the outputs of all parts in their order. Blocks."""


class AdaptersInUse(Protocol):
    """The adapters of a model, and which one the request of this context uses."""

    async def names(self) -> list[str]:
        """Those that requests may name."""

    def current(self) -> tuple[str, Adapter] | None:
        """Its name as requests write it, and what the engine knows it by; None for a request without one."""


class Engine(Protocol):
    """An engine that serves one model. Coroutines and generators belong to the engine's event loop."""

    @property
    def facts(self) -> ModelFacts:
        """What is known of the model."""

    @property
    def is_dead(self) -> bool:
        """Whether the engine has died. Cheap; from any thread."""

    @property
    def statistics(self) -> Statistics | None:
        """What it counts; None where it counts nothing."""

    def release(self) -> None:
        """Let go of the engine, which has been shut down: tracebacks that libraries keep may hold this object."""

    async def check_health(self) -> None:
        """Raises: UnavailableError: the engine has died."""

    async def step(self) -> None:
        """Returns when the engine has come to the end of a step, or has nothing to do."""

    def end(self) -> None:
        """End an engine that stands still; requests under way fail as when it dies. Blocks; from any thread."""

    def run(self, prompt: Mapping[str, Any], params: Any, options: RunOptions) -> AsyncGenerator[Any, None]:
        """The outputs for a rendered prompt: RequestOutputs, or one PoolingRequestOutput.

        Closing the generator aborts the request in the engine.
        """

    def has_failed(self, output: Any) -> bool:
        """Whether ``output`` says that the engine failed the request."""

    def explain(self, error: BaseException) -> BackendError | None:
        """An error of the engine as one of ours: the client's fault or a dead engine; None when it is neither."""

    async def render_text(self, prompt: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tokenize a prompt dictionary and process its media, off the event loop."""

    async def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        template: str | None,
        template_kwargs: Mapping[str, Any],
        processor_kwargs: Mapping[str, Any],
        cache_salt: str | None = None,
    ) -> Mapping[str, Any]:
        """Put messages, their media given as handles, through the chat template; then as :meth:`render_text`.

        The text after the template is in the result as ``prompt``.
        """

    def placeholder(self, modality: str, number: int) -> str | None:
        """The text that stands for the ``number``-th (from 1) item of ``modality`` in a prompt; None if none does."""

    def embeds_layout(self) -> EmbedsLayout | None:
        """What the model takes as embeddings of images; None where enable_mm_embeds is off.

        Raises: UnsupportedError: the model needs more than embeddings and a grid.
        """

    def vision_rules(self) -> VisionRules | None:
        """How the model wants images sized and frames chosen; None where its media processor alone decides it."""

    def embeds_tensor(self, array: npt.NDArray[Any]) -> Any:
        """An array in the form in which the engine takes embeddings."""

    def prompt_tensor(self, array: npt.NDArray[Any]) -> Any:
        """Embeddings of a prompt in the form in which the engine takes them."""

    def join_embeds(self, images: Sequence[Mapping[str, Any]]) -> Any:
        """Embedded images (fields by name, as :meth:`embeds_tensor`) in the form of ``multi_modal_data``."""

    def sampling_params(self, values: Mapping[str, Any], *, stream: bool) -> Any:
        """SamplingParams. Raises: BackendError: a value that the engine refuses."""

    def pooling_params(self, values: Mapping[str, Any]) -> Any:
        """PoolingParams. Raises: BackendError: a value that the engine refuses."""

    def structured_outputs(self, values: Mapping[str, Any]) -> Any:
        """StructuredOutputsParams. Raises: whatever the engine raises."""

    @property
    def structured_output_options(self) -> Sequence[str]:
        """Fields of StructuredOutputsParams."""

    def constraint_checker(self, seconds: float, log_error: Callable[[str], None]) -> ConstraintChecker:
        """Compiles constraints outside of the engine, each within ``seconds``. Blocks while a tokenizer is copied."""

    def guard_constraints(self, accept: Accept) -> None:
        """Let a request with a constraint begin only after ``accept`` has returned for it, whatever calls generate."""

    def guard_prompts(self, check: CheckPrompt) -> None:
        """Let a request to generate begin only after ``check`` has returned for it, whatever calls the engine."""

    def observe_requests(self) -> None:
        """Note the spans and figures of a request in its record, where its context has one (observability.serving)."""

    async def load_adapter(self, adapter: Adapter) -> None:
        """Load a LoRA adapter, so that no request can find it broken. Raises: whatever the engine raises."""

    async def remove_adapter(self, number: int) -> None:
        """Forget a LoRA adapter. Raises: whatever the engine raises."""

    def pair_scoring(self, template: str | None) -> PairScoring:
        """How pairs are scored; ``template`` joins their texts. Raises: UnsupportedError: the model scores none."""

    def answer_parsers(self, arguments: Mapping[str, Any]) -> AnswerParsers:
        """The parsers that ``arguments``, those of vLLM's server, name. Raises: whatever the engine raises."""

    async def openai_application(
        self,
        served_names: Sequence[str],
        arguments: Mapping[str, Any],
        adapters: AdaptersInUse,
        storage: Storage = NO_STORAGE,
    ) -> Application:
        """vLLM's OpenAI application on this engine; ``arguments`` are those of its server.

        It keeps responses of the Responses API as ``storage`` says, and puts what it begins in the background for the
        request of a context into :data:`~vllm_custom.engine.background.BEGUN`.
        """
