"""What the user writes in config.pbtxt wins: transaction policy, batching, changed and further tensors."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from tests.support.client import Client
from tests.support.servers import SHAPES_VL, SHARED_MODEL, Loads, Repository
from tests.support.shapes import Picture, picture
from tests.support.versions import at_least, needs_vllm
from tools.installer.paths import CHECKOUT
from tools.installer.server import TritonServer

pytestmark = pytest.mark.any_base

MODEL = "batched"
DESCRIBE = "Describe the image."

CONFIG = (
    SHARED_MODEL
    + """
max_batch_size: 8
dynamic_batching { max_queue_delay_microseconds: 1000 }
model_transaction_policy { decoupled: false }
input [
  { name: "text_input" data_type: TYPE_STRING dims: [ -1 ] },
  { name: "tenant" data_type: TYPE_STRING dims: [ 1 ] optional: true }
]
output [ { name: "text_output" data_type: TYPE_STRING dims: [ 1 ] } ]
"""
)

# A model in Triton's python backend that asks the batched one through BLS.
BLS_CONFIG = """
backend: "python"
input [ { name: "image" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "description" data_type: TYPE_STRING dims: [ 1 ] } ]
"""
BLS_MODEL = f"""
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.describe(request) for request in requests]

    def describe(self, request):
        image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        inputs = [
            pb_utils.Tensor("text_input", np.array([[b"{DESCRIBE}"]], dtype=object)),
            pb_utils.Tensor("image", image[None]),
            pb_utils.Tensor("sampling_parameters", np.array([[b'{{"temperature": 0}}']], dtype=object)),
        ]
        answer = pb_utils.InferenceRequest(
            model_name="{MODEL}", requested_output_names=["text_output"], inputs=inputs
        ).exec()
        if answer.has_error():
            return pb_utils.InferenceResponse(error=answer.error())
        text = pb_utils.get_output_tensor_by_name(answer, "text_output").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("description", text[0])])
"""


@pytest.fixture(scope="module", autouse=True)
def models(repository: Repository, load: Loads) -> None:
    embeds = {"enable_mm_embeds": True} if at_least("0.11.1") else {}
    repository.add(MODEL, CONFIG, repository.shapes_args(**embeds))
    repository.add("asks_by_bls", BLS_CONFIG, None, model__py=BLS_MODEL)
    load(MODEL)
    load("asks_by_bls")


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return [picture(22_000 + index, (224, 224)) for index in range(6)]


def infer(triton: TritonServer, library: Any, texts: list[str], images: list[list[bytes]], **parameters: Any) -> Any:
    """tritonclient's plain infer, over HTTP or gRPC, with one row per text."""
    url = triton.grpc_url if library is grpcclient else triton.http_url.removeprefix("http://")
    arrays = {
        "text_input": np.array([[text.encode()] for text in texts], dtype=object),
        "image": np.array(images, dtype=object),
        "tenant": np.array([[b"somebody"]] * len(texts), dtype=object),
        "return_num_output_tokens": np.array([[True]] * len(texts)),
    }
    inputs = []
    for name, values in arrays.items():
        tensor = library.InferInput(name, values.shape, "BOOL" if values.dtype == bool else "BYTES")
        tensor.set_data_from_numpy(values)
        inputs.append(tensor)
    connection = library.InferenceServerClient(url)
    try:
        return connection.infer(MODEL, inputs, parameters={"temperature": 0, **parameters})
    finally:
        connection.close()


def test_the_completed_configuration_keeps_what_the_user_wrote(client: Client) -> None:
    config = client.config(MODEL)
    inputs = {tensor["name"]: tensor for tensor in config["input"]}
    assert config["max_batch_size"] == 8
    assert config["model_transaction_policy"] == {"decoupled": False}
    assert inputs["text_input"]["dims"] == [-1]
    assert not inputs["text_input"]["optional"]
    assert inputs["tenant"]["dims"] == [1]
    assert inputs["messages"]["optional"]
    assert [tensor["dims"] for tensor in config["output"] if tensor["name"] == "text_output"] == [[1]]
    assert "num_output_tokens" in {tensor["name"] for tensor in config["output"]}


@pytest.mark.parametrize("library", [httpclient, grpcclient], ids=["http", "grpc"])
def test_plain_infer_with_raw_bytes(triton: TritonServer, library: Any, pictures: list[Picture]) -> None:
    result = infer(triton, library, [DESCRIBE], [[pictures[0].encoded("JPEG", quality=95)]])
    assert result.as_numpy("text_output").tolist() == [[pictures[0].answer().encode()]]
    assert result.as_numpy("num_output_tokens").shape == (1, 1)


@pytest.mark.parametrize("library", [httpclient, grpcclient], ids=["http", "grpc"])
def test_one_request_with_several_rows(triton: TritonServer, library: Any, pictures: list[Picture]) -> None:
    result = infer(triton, library, [DESCRIBE] * 3, [[item.encoded()] for item in pictures[:3]])
    assert result.as_numpy("text_output").tolist() == [[item.answer().encode()] for item in pictures[:3]]


def test_http_infer_as_json(client: Client, pictures: list[Picture]) -> None:
    encoded = base64.b64encode(pictures[1].encoded()).decode()
    tensors = [
        {"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": [DESCRIBE]},
        {"name": "image", "datatype": "BYTES", "shape": [1, 1], "data": [encoded]},
        {"name": "sampling_parameters", "datatype": "BYTES", "shape": [1, 1], "data": [json.dumps({"temperature": 0})]},
    ]
    answer = client.infer(MODEL, tensors)
    assert answer.status == 200, answer.body
    assert answer.body["outputs"][0]["data"] == [pictures[1].answer()]


def test_many_requests_at_once_are_batched_and_answered_each(triton: TritonServer, pictures: list[Picture]) -> None:
    def ask(item: Picture) -> str:
        result = infer(triton, httpclient, [DESCRIBE], [[item.encoded()]])
        return str(result.as_numpy("text_output")[0][0].decode())

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, pictures * 4)) == [item.answer() for item in pictures * 4]


def test_bls(client: Client, pictures: list[Picture]) -> None:
    encoded = base64.b64encode(pictures[2].encoded()).decode()
    answer = client.infer("asks_by_bls", [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [encoded]}])
    assert answer.status == 200, answer.body
    assert answer.body["outputs"][0]["data"] == [pictures[2].answer()]


def test_streaming_is_refused_and_says_why(client: Client) -> None:
    answer = client.generate(MODEL, text_input="2+3=", stream=True)
    assert answer.status != 200
    assert "decoupled" in answer.error


def test_a_bad_row_fails_its_own_request_only(triton: TritonServer, pictures: list[Picture]) -> None:
    with pytest.raises(Exception, match=r"image\[0\].*not an image"):
        infer(triton, httpclient, [DESCRIBE] * 2, [[pictures[0].encoded()], [b"\x89nothing"]])
    result = infer(triton, httpclient, [DESCRIBE], [[pictures[0].encoded()]])
    assert result.as_numpy("text_output")[0][0].decode() == pictures[0].answer()


@pytest.mark.parametrize(
    ("parameters", "said"),
    [({"temperature": -1}, "temperature"), ({"lora_name": "zh"}, "LoRA feature is not enabled")],
    ids=["bad value", "no adapters in this model"],
)
def test_error_codes(triton: TritonServer, parameters: dict[str, Any], said: str) -> None:
    for library, status in ((httpclient, "400"), (grpcclient, "StatusCode.INVALID_ARGUMENT")):
        with pytest.raises(InferenceServerException, match=said) as caught:
            infer(triton, library, [DESCRIBE], [[picture(22_100).encoded()]], **parameters)
        assert caught.value.status() == status


def test_http_status_of_what_the_model_does_not_do(client: Client) -> None:
    tensors = [
        {"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": ["2+3="]},
        {"name": "stream", "datatype": "BOOL", "shape": [1, 1], "data": [True]},
    ]
    assert client.infer(MODEL, tensors).status == 501


def infer_embeds(
    triton: TritonServer, library: Any, text: str, embeds: npt.NDArray[Any], grid: npt.NDArray[Any], **parameters: Any
) -> str:
    """The answer about one row of embedded pictures, by tritonclient's plain infer."""
    url = triton.grpc_url if library is grpcclient else triton.http_url.removeprefix("http://")
    inputs = []
    for name, values, kind in (
        ("text_input", np.array([[text.encode()]], dtype=object), "BYTES"),
        ("image_embeds", embeds[None], "FP32"),
        ("image_grid_thw", grid[None], "INT64"),
    ):
        tensor = library.InferInput(name, values.shape, kind)
        tensor.set_data_from_numpy(values)
        inputs.append(tensor)
    connection = library.InferenceServerClient(url)
    try:
        result = connection.infer(MODEL, inputs, parameters={"temperature": 0, **parameters})
    finally:
        connection.close()
    return str(result.as_numpy("text_output")[0][0].decode())


@pytest.fixture(scope="module")
def embedded(pictures: list[Picture], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, npt.NDArray[Any]]:
    """Two pictures, as the model's own vision tower in transformers gives them."""
    folder = tmp_path_factory.mktemp("embeds")
    files = []
    for index, item in enumerate(pictures[:2]):
        (folder / f"{index}.png").write_bytes(item.encoded())
        files.append(str(folder / f"{index}.png"))
    command = [
        sys.executable,
        "-m",
        "tests.support.transformers_embeds",
        str(SHAPES_VL / "1/weights"),
        str(folder / "out.npz"),
        *files,
    ]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(np.load(folder / "out.npz"))


takes_embeds = needs_vllm("0.11.1", "embeddings of images")


@takes_embeds
@pytest.mark.parametrize("library", [httpclient, grpcclient], ids=["http", "grpc"])
@pytest.mark.parametrize("prompt", ["template", "placeholders"])
def test_embeddings_answer_as_the_image_itself(
    triton: TritonServer, library: Any, prompt: str, pictures: list[Picture], embedded: Mapping[str, npt.NDArray[Any]]
) -> None:
    grid = embedded["image_grid_thw"][:1]
    rows = embedded["image_embeds"][: int(grid.prod()) // 4]
    text, parameters = DESCRIBE, {}
    if prompt == "placeholders":
        picture_part = "<|vision_start|><|image_pad|><|vision_end|>"
        text = f"<|im_start|>user\n{picture_part}{DESCRIBE}<|im_end|>\n<|im_start|>assistant\n"
        parameters = {"max_tokens": 60}
    answer = infer_embeds(triton, library, text, rows, grid, **parameters)
    assert answer.removeprefix(text) == pictures[0].answer()


@takes_embeds
def test_embeddings_of_two_images(
    triton: TritonServer, pictures: list[Picture], embedded: Mapping[str, npt.NDArray[Any]]
) -> None:
    answer = infer_embeds(triton, grpcclient, "Describe each image.", *(embedded[name] for name in sorted(embedded)))
    expected = infer(triton, grpcclient, ["Describe each image."], [[item.encoded() for item in pictures[:2]]])
    assert answer == expected.as_numpy("text_output")[0][0].decode()


@takes_embeds
@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [(64, 255, r"image_embeds: expected \[rows, 256\]"), (63, 256, "image_embeds: expected 64 rows")],
)
def test_embeddings_of_a_wrong_size_are_refused_and_the_engine_goes_on(
    triton: TritonServer, pictures: list[Picture], rows: int, columns: int, message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        infer_embeds(triton, grpcclient, DESCRIBE, np.zeros((rows, columns), np.float32), np.array([[1, 16, 16]]))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    result = infer(triton, httpclient, [DESCRIBE], [[pictures[0].encoded()]])
    assert result.as_numpy("text_output")[0][0].decode() == pictures[0].answer()
