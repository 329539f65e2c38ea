"""Take the media out of an OpenAI body, so that they are fetched and decoded within this model's rules.

vLLM finds a handle where the URL was and asks for it when it has accepted the rest of the request. Then all media of
the request are judged, fetched and decoded together, as for every other request.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vllm_custom.media.decoders.frames import FrameSampling
from vllm_custom.media.elements import LoadedMedia, MediaElement
from vllm_custom.media.handles import MediaHandles
from vllm_custom.media.loader import MediaLoader
from vllm_custom.media.vision_options import read_options
from vllm_custom.media.vision_parts import VISION_PARTS, vision_element
from vllm_custom.openai.anthropic import image_of_source
from vllm_custom.openai.spelling import respell

# What pairs are made of: texts, or objects with parts.
_SCORED = ("query", "queries", "documents", "items", "data_1", "data_2", "text_1", "text_2")
# Key of a content part to modality; the value is a URL, or an object that has one as "url".
_MEDIA_KEYS = {"image_url": "image", "video_url": "video", "audio_url": "audio"}


@dataclass(frozen=True)
class BodyMedia:
    """One medium of a body: what it is, and the object and key that hold its URL."""

    element: MediaElement
    container: dict[str, Any]
    key: str


class RequestMedia:
    """The media of one request, loaded together when the first of them is asked for.

    They are let go when all have been handed over; if vLLM asks again, they are loaded again.
    """

    def __init__(self, loader: MediaLoader, elements: list[MediaElement], frames: FrameSampling) -> None:
        self._loader = loader
        self._elements = elements
        self._frames = frames
        self._loading: asyncio.Task[LoadedMedia] | None = None
        self._wanted: set[int] = set()

    async def get(self, index: int) -> Any:
        """The medium at ``index`` as vLLM takes it.

        Raises:
            InvalidRequestError: one of the request's media is refused.
        """
        if self._loading is None:
            self._loading = asyncio.ensure_future(self._loader.load(self._elements, self._frames))
            self._wanted = set(range(len(self._elements)))
        loaded = await asyncio.shield(self._loading)
        self._wanted.discard(index)
        if not self._wanted:
            loaded.release()
            self._loading = None
        return loaded[index].data

    def close(self) -> None:
        """The request has ended: stop what is still being fetched or decoded."""
        if self._loading is not None:
            self._loading.cancel()
            self._loading.add_done_callback(_let_go)
            self._loading = None


def _let_go(loading: asyncio.Task[LoadedMedia]) -> None:
    if not loading.cancelled() and loading.exception() is None:
        loading.result().release()


@contextlib.contextmanager
def media_by_handle(body: dict[str, Any], loader: MediaLoader, handles: MediaHandles) -> Iterator[None]:
    """Replace each URL in ``body`` by a handle that is valid inside the ``with`` block.

    ``media_io_kwargs`` is carried out here and taken out of the body.

    Raises:
        InvalidRequestError: ``media_io_kwargs`` asks for what this backend does not do.
    """
    frames = loader.frames(FrameSampling.requested(None, None, body.pop("media_io_kwargs", None) or {}))
    found = find_media(body)
    if not found:
        yield
        return
    elements = [item.element for item in found]
    if kwargs := loader.processor_kwargs(elements):
        body["mm_processor_kwargs"] = {**kwargs, **(body.get("mm_processor_kwargs") or {})}
    media = RequestMedia(loader, elements, frames)
    try:
        with handles.register_lazy(media.get, len(found)) as names:
            for item, name in zip(found, names, strict=True):
                item.container[item.key] = name
            yield
    finally:
        media.close()


def find_media(body: dict[str, Any]) -> list[BodyMedia]:
    """The media of all messages, in order. Ids that a client gives its media are removed from their parts.

    vLLM's caches believe such an id, so a client could put its own image in another one's place.

    Raises:
        InvalidRequestError: a part without its medium.
    """
    found: list[BodyMedia] = []
    _drop_ids(body)
    for part, where in _parts(body):
        part.pop("uuid", None)
        if not _is_of_responses(where):
            respell(part, where)
        if (image := image_of_source(part, where)) is not None:
            found.append(BodyMedia(*image, "url"))
        else:
            found.extend(_media_of(part, where))
    return found


def _parts(body: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Each part of a message, and of what a tool gave (an item of the Responses API), and its place."""
    for name, key in (("messages", "content"), ("input", "content"), ("input", "output")):
        items = body.get(name)
        for index, item in enumerate(items if isinstance(items, list) else []):
            parts = item.get(key) if isinstance(item, dict) else None
            for position, part in enumerate(parts if isinstance(parts, list) else []):
                if isinstance(part, dict):
                    yield from _with_inner(part, f"{name}[{index}].{key}[{position}]")


def _drop_ids(body: dict[str, Any]) -> None:
    """Of parts whose media are not taken: they would find another client's medium by its id alone."""
    for name in (*_SCORED, "messages"):
        value = body.get(name)
        several = value if isinstance(value, list) else [value]
        for item in itertools.chain.from_iterable(one if isinstance(one, list) else [one] for one in several):
            parts = item.get("content") if isinstance(item, dict) else None
            for part in parts if isinstance(parts, list) else []:
                if isinstance(part, dict):
                    part.pop("uuid", None)


def _with_inner(part: dict[str, Any], where: str) -> Iterator[tuple[dict[str, Any], str]]:
    """A part, and those in the result of a tool, as Anthropic's API has it."""
    yield part, where
    inner = part.get("content")
    for position, one in enumerate(inner if isinstance(inner, list) else []):
        if isinstance(one, dict):
            yield one, f"{where}.content[{position}]"


def _media_of(part: dict[str, Any], where: str) -> Iterator[BodyMedia]:
    audio = part.get("input_audio")
    if isinstance(audio, dict) and isinstance(audio.get("data"), str) and audio["data"]:
        # vLLM would make a data: URI of it; as a URL it can be a handle.
        element = MediaElement("audio", f"{where}.input_audio.data", audio["data"].encode("utf-8", "surrogatepass"))
        del part["input_audio"]
        part |= {"type": "audio_url", "audio_url": {"url": ""}}
        yield BodyMedia(element, part["audio_url"], "url")
        return
    kind = part.get("type")
    if kind in VISION_PARTS and kind in part and not (kind == "video" and _is_of_responses(where)):
        yield _in_openai_form(part, vision_element(part, kind, where), where)
        return
    for key, modality in _MEDIA_KEYS.items():
        holder, inner = (part[key], "url") if isinstance(part.get(key), dict) else (part, key)
        url = holder.get(inner)
        if isinstance(url, str) and url:
            options = read_options(part, modality, where)
            for name in options:
                del part[name]
            encoded = url.encode("utf-8", "surrogatepass")
            yield BodyMedia(MediaElement(modality, f"{where}.{key}", encoded, options=options or None), holder, inner)


def _in_openai_form(part: dict[str, Any], element: MediaElement, where: str) -> BodyMedia:
    """A part of Qwen's form, after it was made one that vLLM knows."""
    key = f"{element.modality}_url"
    part.clear()
    if _is_of_responses(where):
        part |= {"type": f"input_{element.modality}", key: "", "detail": "auto"}
        return BodyMedia(element, part, key)
    part |= {"type": key, key: {"url": ""}}
    return BodyMedia(element, part[key], "url")


def _is_of_responses(where: str) -> bool:
    """Whether a part belongs to the Responses API, which names its parts differently and has no videos."""
    return where.startswith("input[")
