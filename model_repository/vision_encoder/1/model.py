"""A vision tower behind Triton: images in, rows for the input image_embeds of vllm_custom out.

The tower itself is in tower.py. Images are fetched and decoded by vllm_custom's own rules, in its confined processes:
the backend lies beside Triton's Python backend.
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

VERSION_DIR = Path(__file__).resolve().parent
sys.path[:0] = [str(VERSION_DIR), str(Path(pb_utils.__file__).resolve().parents[1] / "vllm_custom")]

from tower import VisionTower  # noqa: E402

from vllm_custom.contract.settings import Settings  # noqa: E402
from vllm_custom.errors import BackendError, InvalidRequestError  # noqa: E402
from vllm_custom.media.elements import LoadedMedia, MediaElement  # noqa: E402
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
        images = [image.data for media in loaded if isinstance(media, LoadedMedia) for image in media]
        encoded = iter(self._tower.encode(images) if images else [])
        return [self._respond(media, encoded) for media in loaded]

    def finalize(self) -> None:
        """End the processes that decode."""
        self._media.close()
        self._loop.close()

    async def _load_all(self, requests: Sequence[Any]) -> list[LoadedMedia | BackendError]:
        return await asyncio.gather(*map(self._load, requests))

    async def _load(self, request: Any) -> LoadedMedia | BackendError:
        values = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        try:
            if len(values) != 1 or not values.size:
                raise InvalidRequestError(f"image: expected [1, images], got {list(values.shape)}")
            if values.size > self._most:
                expected = f"at most {self._most} images (MAX_IMAGES of this model)"
                raise InvalidRequestError(f"image: expected {expected}, got {values.size}")
            elements = [MediaElement("image", f"image[{index}]", raw) for index, raw in enumerate(values[0])]
            return await self._media.load(elements)
        except BackendError as error:
            return error

    def _respond(self, media: LoadedMedia | BackendError, encoded: Any) -> Any:
        if isinstance(media, BackendError):
            code = getattr(pb_utils.TritonError, media.triton_code)
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(media), code))
        with media:
            rows, grids = zip(*(next(encoded) for _ in media), strict=True)
        # With the batch dimension, which is 1.
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("image_embeds", np.concatenate(rows)[None]),
                pb_utils.Tensor("image_grid_thw", np.stack(grids)[None]),
            ]
        )
