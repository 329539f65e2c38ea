"""Every form of request: decoupled, over generate, generate_stream and gRPC."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from tests.support.audio import film
from tests.support.bodies import b64, data_uri, image_part, text_part, user
from tests.support.client import Client
from tests.support.openai_cases import MODEL
from tests.support.shapes import answer_each, clip, gif, number_picture, picture
from tests.support.versions import at_least
from tools.installer.server import TritonServer

pytestmark = [pytest.mark.any_base, pytest.mark.usefixtures("superset")]

DESCRIBE = "Describe the image."
PLACEHOLDER = "<|vision_start|><|image_pad|><|vision_end|>"
GREEDY = {"temperature": 0}
PICTURE = picture(20_001, (224, 224), count=2)


class TestGenerate:
    def test_image_as_base64_and_a_question_without_placeholder(self, client: Client) -> None:
        answer = client.generate(MODEL, text_input=DESCRIBE, image=[b64(PICTURE.encoded())], **GREEDY)
        assert (answer.status, answer.text) == (200, PICTURE.answer())

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF"])
    def test_image_as_data_uri_in_each_format(self, client: Client, file_format: str) -> None:
        uri = data_uri(PICTURE.encoded(file_format), f"image/{file_format.lower()}")
        assert client.generate(MODEL, text_input=DESCRIBE, image=[uri], **GREEDY).text == PICTURE.answer()

    def test_one_image_that_is_not_in_a_list(self, client: Client) -> None:
        assert client.generate(MODEL, text_input=DESCRIBE, image=b64(PICTURE.encoded()), **GREEDY).text == (
            PICTURE.answer()
        )

    def test_prompt_with_its_own_placeholder_is_used_as_it_is_and_put_before_the_answer(self, client: Client) -> None:
        prompt = f"<|im_start|>user\n{PLACEHOLDER}{DESCRIBE}<|im_end|>\n<|im_start|>assistant\n"
        body = {"text_input": prompt, "image": [b64(PICTURE.encoded())], "max_tokens": 64, **GREEDY}
        assert client.generate(MODEL, **body).text == prompt + PICTURE.answer()
        assert client.generate(MODEL, exclude_input_in_output=True, **body).text == PICTURE.answer()

    def test_templated_prompt_is_put_before_the_answer_only_on_request(self, client: Client) -> None:
        body = {"text_input": DESCRIBE, "image": [b64(PICTURE.encoded())], **GREEDY}
        text = client.generate(MODEL, exclude_input_in_output=False, **body).text
        assert text.endswith(PICTURE.answer())
        assert DESCRIBE in text
        assert PLACEHOLDER in text

    def test_several_images_keep_their_order(self, client: Client) -> None:
        pictures = [picture(20_100 + index, (224, 224), count=1) for index in range(3)]
        images = [b64(item.encoded()) for item in pictures]
        answer = client.generate(MODEL, text_input="Describe each image.", image=images, **GREEDY)
        assert answer.text == answer_each(pictures)

    def test_thirty_images_in_one_request(self, client: Client) -> None:
        images = [b64(picture(20_200 + index, (112, 112), count=1).encoded()) for index in range(30)]
        answer = client.generate(
            MODEL, text_input="Describe each image.", image=images, return_num_input_tokens=True, **GREEDY
        )
        assert answer.status == 200
        assert answer.body["num_input_tokens"] >= 30 * 16  # 112 x 112 pixels are 16 tokens

    @pytest.mark.parametrize(("question", "answer"), [("2+3=", "5"), ("4+5=", "9")])
    def test_text_alone(self, client: Client, question: str, answer: str) -> None:
        raw = client.generate(MODEL, text_input=question, **GREEDY)
        assert raw.text == question + answer
        templated = client.generate(MODEL, text_input=question, apply_chat_template=True, **GREEDY)
        assert templated.text == answer

    def test_chinese(self, client: Client) -> None:
        answer = client.generate(MODEL, text_input="描述这张图片。", image=[b64(PICTURE.encoded())], **GREEDY)
        assert answer.text == PICTURE.answer("zh")

    def test_number(self, client: Client) -> None:
        image, digits = number_picture(20_300, size=(336, 336), height=80)
        encoded = b64(_png(image))
        assert client.generate(MODEL, text_input="Read the number.", image=[encoded], **GREEDY).text == digits

    @pytest.mark.parametrize("direction", ["left", "right", "up", "down"])
    def test_video(self, client: Client, direction: str) -> None:
        moving = gif(clip(20_400, direction))
        answer = client.generate(MODEL, text_input="Which way does it move?", video=[b64(moving)], **GREEDY)
        assert (answer.status, answer.body.get("text_output")) == (200, direction)

    @pytest.mark.parametrize("direction", ["left", "up"])
    @pytest.mark.parametrize("file_format", ["mp4", "webm", "webp"])
    def test_video_in_other_formats(self, client: Client, direction: str, file_format: str) -> None:
        frames = clip(20_400, direction)
        if file_format == "webp":
            data = gif(frames, file_format="WEBP")
        else:
            codec = {"mp4": "libx264", "webm": "libvpx"}[file_format]
            data = film([np.asarray(frame) for frame in frames], file_format, codec, rate=5)
        answer = client.generate(MODEL, text_input="Which way does it move?", video=[b64(data)], **GREEDY)
        assert (answer.status, answer.body.get("text_output")) == (200, direction)

    def test_a_request_says_how_many_frames_of_a_video_are_taken(self, client: Client) -> None:
        data = b64(gif(clip(20_400, "left"), milliseconds=500))

        def input_tokens(**options: Any) -> int:
            answer = client.generate(MODEL, text_input="?", video=[data], return_num_input_tokens=True, **options)
            assert answer.status == 200, answer.body
            return int(answer.body["num_input_tokens"])

        few, many = input_tokens(num_frames=2), input_tokens(num_frames=4)
        assert many > few
        assert input_tokens(media_io_kwargs='{"video": {"num_frames": 4}}') == many
        assert input_tokens(fps=1) == many, "the clip lasts four seconds"
        assert input_tokens() > many
        refused = client.generate(MODEL, text_input="?", video=[data], num_frames=33)
        assert refused.status == 400
        assert "num_frames: expected at most 32 (VIDEO_MAX_FRAMES of this model), got 33" in refused.error


class TestMessages:
    def test_image_part(self, client: Client) -> None:
        messages = user(image_part(PICTURE.encoded()), text_part(DESCRIBE))
        assert client.generate(MODEL, messages=messages, **GREEDY).text == PICTURE.answer()

    def test_text_before_the_image_and_a_system_message(self, client: Client) -> None:
        messages = [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": [text_part(DESCRIBE), image_part(PICTURE.encoded())]},
        ]
        assert client.generate(MODEL, messages=json.dumps(messages), **GREEDY).text == PICTURE.answer()

    def test_images_of_several_parts_keep_their_order(self, client: Client) -> None:
        pictures = [picture(20_500 + index, (224, 224), count=1) for index in range(2)]
        messages = user(*(image_part(item.encoded()) for item in pictures), text_part("Describe each image."))
        assert client.generate(MODEL, messages=messages, **GREEDY).text == answer_each(pictures)

    def test_video_part(self, client: Client) -> None:
        part = {"type": "video_url", "video_url": {"url": data_uri(gif(clip(20_600, "right")), "image/gif")}}
        messages = user(part, text_part("Which way does it move?"))
        assert client.generate(MODEL, messages=messages, **GREEDY).text == "right"

    def test_an_image_in_qwens_form_has_the_size_that_is_asked_for(self, client: Client) -> None:
        def tokens(**options: int) -> int:
            part = {"type": "image", "image": data_uri(PICTURE.encoded()), **options}
            answer = client.generate(
                MODEL, messages=user(part, text_part(DESCRIBE)), return_num_input_tokens=True, **GREEDY
            )
            assert (answer.status, answer.text) == (200, PICTURE.answer())
            return int(answer.body["num_input_tokens"])

        assert tokens() - tokens(max_pixels=168 * 168) == 64 - 36
        assert tokens(resized_height=280, resized_width=224) - tokens() == 80 - 64
        part = {"type": "image", "image": data_uri(PICTURE.encoded()), "min_pixels": 10**9}
        refused = client.generate(MODEL, messages=user(part, text_part(DESCRIBE)))
        assert refused.status == 400
        assert "messages[0].content[0].min_pixels: expected at most 50000000 (IMAGE_MAX_PIXELS" in refused.error

    @pytest.mark.parametrize("as_list", [True, False])
    def test_a_video_in_qwens_form(self, client: Client, as_list: bool) -> None:
        frames = clip(20_600, "right")
        encoded = data_uri(film([np.asarray(frame) for frame in frames], rate=5), "video/mp4")
        video = [data_uri(_png(frame)) for frame in frames] if as_list else encoded
        part = {"type": "video", "video": video, "min_pixels": 3136, "max_pixels": 112 * 112}
        part |= {} if as_list else {"nframes": 8}
        answer = client.generate(MODEL, messages=user(part, text_part("Which way does it move?")), **GREEDY)
        assert (answer.status, answer.body.get("text_output")) == (200, "right")

    def test_same_as_text_input_with_image(self, client: Client) -> None:
        encoded = PICTURE.encoded()
        body = {"return_num_input_tokens": True, **GREEDY}
        by_messages = client.generate(MODEL, messages=user(image_part(encoded), text_part(DESCRIBE)), **body)
        by_text = client.generate(MODEL, text_input=DESCRIBE, image=[b64(encoded)], **body)
        assert by_messages.body == by_text.body

    def test_a_client_cannot_choose_the_id_that_media_are_cached_by(self, client: Client) -> None:
        other = picture(20_700, (224, 224), shapes=[("green", "star")])
        mine = picture(20_701, (224, 224), shapes=[("red", "circle")])
        for drawn in (other, mine):
            part = image_part(drawn.encoded()) | {"uuid": "the-same-id"}
            assert client.generate(MODEL, messages=user(part, text_part(DESCRIBE)), **GREEDY).text == drawn.answer()


class TestStream:
    def test_pieces_add_up_and_arrive_one_per_token(self, client: Client) -> None:
        body = {"text_input": DESCRIBE, "image": [b64(PICTURE.encoded())], "return_num_output_tokens": True, **GREEDY}
        events = client.stream(MODEL, return_finish_reason=True, **body)
        whole = client.generate(MODEL, **body)
        assert "".join(event["text_output"] for event in events) == PICTURE.answer()
        assert sum(event["num_output_tokens"] for event in events) == whole.body["num_output_tokens"]
        assert len(events) > 3
        assert [event["finish_reason"] for event in events] == ["None"] * (len(events) - 1) + ["stop"]

    def test_chinese_characters_are_never_split(self, client: Client) -> None:
        events = client.stream(MODEL, text_input="描述这张图片。", image=[b64(PICTURE.encoded())], **GREEDY)
        assert all("\ufffd" not in event["text_output"] for event in events)
        assert "".join(event["text_output"] for event in events) == PICTURE.answer("zh")

    def test_forty_streams_at_once_keep_every_token(self, client: Client) -> None:
        """What is sent as one response or as several, each stream's counts, log probabilities and text add up."""
        asked = {"return_num_output_tokens": True, "return_logprobs": True, "return_cumulative_logprob": True}
        limits = {"max_tokens": 48, "logprobs": 0, "guided_regex": "[a-z ]{500}"}  # plain text, and no end before that

        def stream(index: int) -> list[dict[str, Any]]:
            return client.stream(MODEL, text_input=f"{index}+3=", **asked, **limits, **GREEDY)

        with ThreadPoolExecutor(40) as pool:
            for events in pool.map(stream, range(40)):
                assert sum(event["num_output_tokens"] for event in events) == 48
                positions = [position for event in events for position in json.loads(event["logprobs"])]
                chosen = [next(iter(position.values())) for position in positions]
                assert len(chosen) == 48
                assert events[-1]["cumulative_logprob"] == pytest.approx(
                    sum(each["logprob"] for each in chosen), abs=0.1
                )
                text = "".join(event["text_output"] for event in events)
                assert text == "".join(each["decoded_token"] for each in chosen)

    def test_an_error_is_the_only_event(self, client: Client) -> None:
        events = client.stream(MODEL, text_input=DESCRIBE, image=["%%%"])
        assert len(events) == 1
        assert "image[0]" in events[0]["error"]


class TestOutputs:
    def test_all_additional_outputs(self, client: Client) -> None:
        asked = ("finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")
        answer = client.generate(
            MODEL,
            text_input="2+3=",
            exclude_input_in_output=True,
            logprobs=2,
            max_tokens=4,
            **{f"return_{name}": True for name in asked},
            **GREEDY,
        )
        assert answer.text == "5"
        assert answer.body["finish_reason"] == "stop"
        assert answer.body["num_input_tokens"] == 4
        positions = json.loads(answer.body["logprobs"])
        assert len(positions) == answer.body["num_output_tokens"]
        best = next(iter(positions[0].values()))
        assert best.keys() == {"logprob", "rank", "decoded_token"}
        assert answer.body["cumulative_logprob"] <= 0

    def test_several_sequences(self, client: Client) -> None:
        answer = client.generate(MODEL, text_input="2+3=", n=3, temperature=0.01, seed=1, exclude_input_in_output=True)
        assert answer.body["text_output"] == ["5", "5", "5"]

    def test_several_sequences_streamed(self, client: Client) -> None:
        events = client.stream(MODEL, text_input="2+3=", n=2, temperature=0.01, seed=1)
        texts = ["".join(event["text_output"][index] for event in events) for index in range(2)]
        assert texts == ["5", "5"]


class TestParameters:
    def test_sampling_parameters_input(self, client: Client) -> None:
        options = json.dumps({"temperature": 0, "max_tokens": 3})
        answer = client.generate(
            MODEL, text_input="hello", sampling_parameters=options, return_num_output_tokens=True, ignore_eos=True
        )
        assert answer.body["num_output_tokens"] == 3

    def test_parameters_object_and_strings_that_hold_numbers(self, client: Client) -> None:
        parameters = {"temperature": "0", "max_tokens": "2", "ignore_eos": "true"}
        answer = client.generate(MODEL, text_input="hello", parameters=parameters, return_num_output_tokens=True)
        assert answer.body["num_output_tokens"] == 2

    def test_stop_as_a_json_string(self, client: Client) -> None:
        image = [b64(picture(20_800, shapes=[("red", "circle"), ("blue", "star")]).encoded())]
        answer = client.generate(MODEL, text_input=DESCRIBE, image=image, stop='[" and"]', **GREEDY)
        assert answer.text == "a red circle"

    def test_structured_outputs(self, client: Client) -> None:
        choice = json.dumps({"choice": ["a dog", "a cat"]})
        answer = client.generate(
            MODEL, text_input=DESCRIBE, image=[b64(PICTURE.encoded())], structured_outputs=choice, **GREEDY
        )
        assert answer.text in ("a dog", "a cat")

    def test_lora_adapters_answer_each_in_its_way(self, client: Client) -> None:
        body = {"text_input": DESCRIBE, "image": [b64(PICTURE.encoded())], **GREEDY}
        assert client.generate(MODEL, lora_name="zh", **body).text == PICTURE.answer("zh")
        assert client.generate(MODEL, lora_name="caps", **body).text == PICTURE.answer().upper()
        assert client.generate(MODEL, **body).text == PICTURE.answer()


class TestGrpc:
    @pytest.fixture
    def grpc(self, triton: TritonServer) -> Iterator[grpcclient.InferenceServerClient]:
        with grpcclient.InferenceServerClient(triton.grpc_url) as connection:
            yield connection

    def test_raw_bytes_streamed(self, grpc: grpcclient.InferenceServerClient) -> None:
        text = "".join(_grpc_texts(grpc, [PICTURE.encoded("JPEG", quality=90)], stream=True))
        assert text == PICTURE.answer()

    def test_raw_bytes_of_several_images_not_streamed(self, grpc: grpcclient.InferenceServerClient) -> None:
        pictures = [picture(20_900 + index, (224, 224), count=1) for index in range(2)]
        encoded = [pictures[0].encoded("PNG"), pictures[1].encoded("WEBP", quality=95)]
        (text,) = _grpc_texts(grpc, encoded, question="Describe each image.")
        assert text == answer_each(pictures)

    def test_embeddings_are_refused_where_the_engine_takes_none(self, grpc: grpcclient.InferenceServerClient) -> None:
        embeds = grpcclient.InferInput("image_embeds", [64, 256], "FP32")
        embeds.set_data_from_numpy(np.zeros((64, 256), np.float32))
        arrived: queue.Queue[Any] = queue.Queue()
        grpc.start_stream(callback=lambda result, error: arrived.put(error))
        grpc.async_stream_infer(MODEL, [_tensor("text_input", np.array([b"hi"], dtype=object)), embeds])
        error = arrived.get(timeout=60)
        grpc.stop_stream()
        reason = '"enable_mm_embeds": true in model.json allows them' if at_least("0.11.1") else "needs vLLM 0.11.1"
        assert reason in str(error)


def _png(image: Any) -> bytes:
    from tests.support.shapes import encode

    return encode(image)


def _grpc_texts(
    grpc: grpcclient.InferenceServerClient, images: list[bytes], question: str = DESCRIBE, stream: bool = False
) -> list[str]:
    arrived: queue.Queue[Any] = queue.Queue()
    grpc.start_stream(callback=lambda result, error: arrived.put((result, error)))
    inputs = [
        _tensor("text_input", np.array([question.encode()], dtype=object)),
        _tensor("image", np.array(images, dtype=object)),
        _tensor("stream", np.array([stream])),
    ]
    grpc.async_stream_infer(MODEL, inputs, parameters={"temperature": 0}, enable_empty_final_response=True)
    texts = []
    while True:
        result, error = arrived.get(timeout=60)
        assert error is None, error
        text = result.as_numpy("text_output")
        if text is not None:
            texts.append(text[0].decode())
        if result.get_response().parameters["triton_final_response"].bool_param:
            break
    grpc.stop_stream()
    return texts


def _tensor(name: str, values: np.ndarray) -> grpcclient.InferInput:
    tensor = grpcclient.InferInput(name, values.shape, "BOOL" if values.dtype == bool else "BYTES")
    tensor.set_data_from_numpy(values)
    return tensor
