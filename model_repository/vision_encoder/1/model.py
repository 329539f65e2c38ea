"""A vision tower behind Triton: images in, rows for the input image_embeds of vllm_custom out.

The tower itself is in tower.py. Images are fetched and decoded by vllm_custom's own rules, in its confined processes:
the backend lies next to Triton's Python backend.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL.Image import Image

VERSION_DIR = Path(__file__).resolve().parent
sys.path[:0] = [str(VERSION_DIR), str(Path(pb_utils.__file__).resolve().parents[1] / "vllm_custom")]

from tower import VisionTower  # noqa: E402

from vllm_custom.contract.settings import Settings  # noqa: E402
from vllm_custom.errors import BackendError, InternalError, InvalidRequestError  # noqa: E402
from vllm_custom.media.elements import MediaElement  # noqa: E402
from vllm_custom.media.loader import MediaLoader  # noqa: E402

# Parameters of config.pbtxt that are this model's own, and what they are by default.
OWN = {"WEIGHTS": "weights", "DTYPE": "float32", "THREADS": "1", "MAX_IMAGES": "30"}


class TritonPythonModel:
    """What Triton's stub instantiates, once per model instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tower. Triton says which GPU is this instance's, if any."""
        config = json.loads(args["model_config"])
        given = config.get("parameters", {})
        own = {key: given.pop(key)["string_value"] if key in given else value for key, value in OWN.items()}
        on_gpu = args["model_instance_kind"] == "GPU"
        device = f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"
        self._tower = VisionTower(VERSION_DIR / own["WEIGHTS"], device, own["DTYPE"], int(own["THREADS"]))
        self._most = int(own["MAX_IMAGES"])
        self._media = MediaLoader(Settings.from_model_config(config), {"image": self._most})
        self._loop = asyncio.new_event_loop()
        pb_utils.Logger.log_info(f"vision tower on {device}; {self._media.start()}")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Encode all images of a batch in one pass. A request that is refused costs the others nothing."""
        loaded = self._loop.run_until_complete(self._load_all(requests))
        encoded = iter(self._encode([images for images in loaded if isinstance(images, list)]))
        results = [images if isinstance(images, BackendError) else next(encoded) for images in loaded]
        return [_error(result) if isinstance(result, BackendError) else _embeds(result) for result in results]

    def finalize(self) -> None:
        """End the processes that decode."""
        self._media.close()
        self._loop.close()

    def _encode(self, requests: list[list[Image]]) -> list[list[Any] | BackendError]:
        """One pass for all requests; where that fails one for each, so that it costs only whose image it is."""
        images = [image for of_request in requests for image in of_request]
        try:
            made = iter(self._tower.encode(images))
        except Exception as error:  # raised, it would go to the clients with its traceback
            if len(requests) > 1:
                return [result for of_request in requests for result in self._encode([of_request])]
            if isinstance(error, ValueError):  # of the checkpoint's image processor: its sides are too unlike, say
                return [InvalidRequestError(f"image: {error}")]
            pb_utils.Logger.log_error(f"the images could not be encoded: {error!r}")
            return [InternalError("image: could not be encoded; the server's log has the details")]
        return [[next(made) for _ in of_request] for of_request in requests]

    async def _load_all(self, requests: Sequence[Any]) -> list[list[Image] | BackendError]:
        return await asyncio.gather(*map(self._load, requests))

    async def _load(self, request: Any) -> list[Image] | BackendError:
        values = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        try:
            if len(values) != 1 or not values.size:
                raise InvalidRequestError(f"image: expected [1, images], got {list(values.shape)}")
            if values.size > self._most:
                expected = f"at most {self._most} images (MAX_IMAGES of this model)"
                raise InvalidRequestError(f"image: expected {expected}, got {values.size}")
            elements = [MediaElement("image", f"image[{index}]", raw) for index, raw in enumerate(values[0])]
            # Released at once: a request that waited for the bytes of another one of its batch would wait forever.
            with await self._media.load(elements) as media:
                return [item.data for item in media]
        except BackendError as error:
            return error


def _error(error: BackendError) -> Any:
    code = getattr(pb_utils.TritonError, error.triton_code)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))


def _embeds(images: Sequence[tuple[Any, Any]]) -> Any:
    """Rows and grids of one request's images, with the batch dimension, which is 1."""
    rows, grids = zip(*images, strict=True)
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("image_embeds", np.concatenate(rows)[None]),
            pb_utils.Tensor("image_grid_thw", np.stack(grids)[None]),
        ]
    )
