"""What `doctor` finds in a model repository: each failure provoked with real files, and the way to fix it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tools.installer import environment, inspection, inspection_program, kv_cache, model_checks, weights
from tools.installer import repository as repository_module
from tools.installer.checks import Check, Status
from tools.installer.inspection import Inspection
from tools.installer.kv_cache import GIB
from tools.installer.paths import BACKEND_SOURCES, DEFAULT_REPOSITORY
from tools.installer.repository import Model

SHAPES = DEFAULT_REPOSITORY / "shapes_vl/1/weights"
CONFIG = 'backend: "vllm_custom"\n'
# Qwen3-0.6B, as its config.json has it.
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_size": 1024,
    "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16",
}


@pytest.fixture(autouse=True)
def _inspected_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, which has been started already."""

    def inspect(folders: list[Path], *_: object) -> list[Inspection]:
        backend = BACKEND_SOURCES / "vllm_custom"
        found = (inspection_program.inspect(path, inspection.version_of(path), backend) for path in folders)
        return [Inspection(**answer) for answer in found]

    monkeypatch.setattr(repository_module, "inspect", inspect)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One model: shapes_vl's own weights."""
    folder = tmp_path / "models/m"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(CONFIG)
    shutil.copytree(SHAPES, folder / "1/weights")
    write_args(tmp_path / "models", {"model": "weights"})
    return tmp_path / "models"


def write_args(repository: Path, arguments: Any) -> None:
    (repository / "m/1/model.json").write_text(json.dumps(arguments))


def write_config(repository: Path, config: dict[str, Any]) -> None:
    (repository / "m/1/weights/config.json").write_text(json.dumps(config))


def find(repository: Path, name: str, gpus: tuple[int, ...] = (), library: Path | None = None) -> Check:
    checks = model_checks.examine(repository, library, gpus)
    return next(check for check in checks if check.name == name)


def split(folder: Path) -> dict[str, str]:
    """model.safetensors as two files with an index, as large models have it; returns the weight map."""
    source = folder / "model.safetensors"
    header = weights.read_header(source)
    data = source.read_bytes()[-max(tensor["data_offsets"][1] for tensor in header.values()) :]
    names = sorted(header)
    weight_map = {}
    for part, chosen in (("a.safetensors", names[:5]), ("b.safetensors", names[5:])):
        kept, blob = {}, b""
        for name in chosen:
            start, end = header[name]["data_offsets"]
            kept[name] = header[name] | {"data_offsets": [len(blob), len(blob) + end - start]}
            blob += data[start:end]
            weight_map[name] = part
        text = json.dumps(kept).encode()
        (folder / part).write_bytes(len(text).to_bytes(8, "little") + text + blob)
    source.unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


class TestRepository:
    def test_our_own_is_good(self) -> None:
        checks = model_checks.examine(DEFAULT_REPOSITORY, None, [24 * GIB])
        bad = [check.name for check in checks if check.status is Status.FAIL]
        assert bad == ["qwen2.5_vl: weights", "qwen3_0.6b: weights"], "those two bring no weights"

    def test_a_folder_that_is_not_there_or_holds_no_model(self, tmp_path: Path) -> None:
        assert find(tmp_path / "no", "model repository").status is Status.FAIL
        assert find(tmp_path, "model repository").found.endswith("contains no model")

    @pytest.mark.parametrize("text", ["{", "[]"])
    def test_a_model_json_that_cannot_be_read(self, repository: Path, text: str) -> None:
        (repository / "m/1/model.json").write_text(text)
        assert find(repository, "m: model.json").status is Status.FAIL

    def test_other_backends_are_not_looked_into(self, repository: Path) -> None:
        (repository / "m/config.pbtxt").write_text('backend: "onnxruntime"\n')
        assert [check.name for check in model_checks.examine(repository, None, [])] == ["model repository"]

    def test_config_pbtxt_is_read_as_protobuf_reads_it(self, repository: Path) -> None:
        """Expressions lost escaped quotes, what follows `#` in a string, and strings in several pieces."""
        (repository / "m/config.pbtxt").write_text(
            'backend: "vllm" "_custom"  # in two pieces\n'
            'parameters { key: "A" value { string_value: "a \\"b\\" # c" } }\n'
            "parameters [ { key: 'B' value { string_value: 'it\\'s' } },\n"
            "  { key: 'C' value { string_value: '\\x41' } } ]\n"
        )
        model = Model.of(repository / "m")
        assert model.is_ours
        assert model.parameters == {"A": 'a "b" # c', "B": "it's", "C": "A"}

    def test_config_pbtxt_is_read_as_people_write_it(self, repository: Path) -> None:
        (repository / "m/config.pbtxt").write_text(
            "# backend: \"python\"\n  backend : 'vllm_custom'\n"
            'parameters { key: "A" value: { string_value: "1" } }\n'
            "parameters: {\n  key: 'B',\n  value: {\n    string_value: 'x, y'\n  }\n}\n"
        )
        model = Model.of(repository / "m")
        assert model.is_ours
        assert model.parameters == {"A": "1", "B": "x, y"}


class TestLoad:
    """What a load would refuse: each of these models was called well, and did not load."""

    @pytest.mark.parametrize(
        ("arguments", "parameters", "words"),
        [
            ({"dtpye": "half"}, {}, "unknown engine argument 'dtpye'"),
            ({}, {"IMAGE_MAX_PIXEL": "5"}, "unknown parameter 'IMAGE_MAX_PIXEL'"),
            ({}, {"IMAGE_MAX_PIXELS": "-5"}, "parameter IMAGE_MAX_PIXELS: expected"),
            ({}, {"MEDIA_MAX_BYTES": "abc"}, "parameter MEDIA_MAX_BYTES: expected"),
            ({}, {"LORA_DIR": "adapters"}, "LORA_DIR needs enable_lora"),
            ({"enable_lora": True}, {"LORA_DIR": "adapters"}, "LORA_DIR: expected a folder"),
            ({"enable_lora": True}, {}, "multi_lora.json is missing"),
            ({"enable_lora": "perhaps"}, {}, "enable_lora: expected true or false"),
        ],
    )
    def test_what_a_load_refuses_fails(
        self, repository: Path, arguments: dict[str, Any], parameters: dict[str, str], words: str
    ) -> None:
        lines = [
            f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}' for key, value in parameters.items()
        ]
        (repository / "m/config.pbtxt").write_text(CONFIG + "\n".join(lines))
        write_args(repository, {"model": "weights"} | arguments)
        check = find(repository, "m: load")
        assert (check.status, words in check.found) == (Status.FAIL, True), check.found

    @pytest.mark.parametrize("adapter", ["nowhere", "./nowhere", "empty", "dangling"])
    def test_adapters_that_are_not_there(self, repository: Path, adapter: str) -> None:
        write_args(repository, {"model": "weights", "enable_lora": True})
        (repository / "m/1/empty").mkdir()
        (repository / "m/1/dangling").symlink_to("gone")
        (repository / "m/1/multi_lora.json").write_text(json.dumps({"a": f"{repository}/m/1/{adapter}"}))
        assert "no adapter_config.json" in find(repository, "m: load").found

    def test_a_good_model_has_no_such_finding(self, repository: Path) -> None:
        names = [check.name for check in model_checks.examine(repository, None, [])]
        assert "m: load" not in names
        assert "m: config.pbtxt" not in names

    @pytest.mark.parametrize("text", ['backend: "vllm_custom" {{{', 'backand: "vllm_custom"', "backend: 5"])
    def test_a_config_that_does_not_parse(self, repository: Path, text: str) -> None:
        (repository / "m/config.pbtxt").write_text(text)
        check = find(repository, "m: config.pbtxt")
        assert check.status is Status.FAIL
        assert check.found.startswith("1:"), "line and column"

    def test_a_model_without_a_version(self, repository: Path) -> None:
        (repository / "m/1").rename(repository / "m/first")
        assert find(repository, "m: version").status is Status.FAIL

    def test_a_path_that_triton_cannot_start_a_model_from(self, repository: Path) -> None:
        """A shell takes it apart. doctor said that all is well."""
        spaced = repository.rename(repository.with_name("my models"))
        check = find(spaced, "m: folder")
        assert (check.status, "my models/m" in check.found) == (Status.FAIL, True)
        assert "without spaces" in check.fix

    def test_a_link_to_a_folder_with_spaces_is_no_such_path(self, repository: Path) -> None:
        """Triton uses the name of the link."""
        elsewhere = (repository / "m").rename(repository.parent / "my model")
        (repository / "m").symlink_to(elsewhere)
        assert "m: folder" not in [check.name for check in model_checks.examine(repository, None, [])]

    def test_what_is_no_model_is_named(self, repository: Path) -> None:
        """Triton tries to load each of them. They were not mentioned."""
        (repository / "empty").mkdir()
        (repository / "bare/1").mkdir(parents=True)
        (repository / "bare/1/model.json").write_text("{}")
        (repository / "onnx/1").mkdir(parents=True)
        (repository / "gone").symlink_to("nowhere")
        (repository / ".git").mkdir()
        found = {check.name: check.status for check in model_checks.examine(repository, None, [])}
        assert {name: found[name] for name in ("empty", "bare", "gone")} == dict.fromkeys(
            ("empty", "bare", "gone"), Status.FAIL
        )
        assert found["onnx"] is Status.WARN
        assert ".git" not in found


class TestEnsembles:
    @pytest.fixture
    def with_ensemble(self, repository: Path) -> Path:
        (repository / "pipeline").mkdir()
        (repository / "pipeline/config.pbtxt").write_text('platform: "ensemble"\n')
        return repository

    def test_the_wheels_server_has_them(self, with_ensemble: Path) -> None:
        libraries = environment.current().site_packages / "nvidia_pytriton.libs"
        library = next(libraries.glob("libtritonserver*.so"))
        assert find(with_ensemble, "ensembles", library=library).status is Status.OK

    def test_a_library_without_the_scheduler_has_them_not(self, with_ensemble: Path) -> None:
        library = environment.current().triton / "backends/python/libtriton_python.so"
        check = find(with_ensemble, "ensembles", library=library)
        assert check.status is Status.FAIL
        assert "unexpected platform type 'ensemble'" in check.found
        assert "24.10" in check.fix

    def test_an_unknown_server_is_a_warning_and_no_ensemble_no_check(
        self, with_ensemble: Path, repository: Path
    ) -> None:
        assert find(with_ensemble, "ensembles").status is Status.WARN
        shutil.rmtree(repository / "pipeline")
        assert "ensembles" not in [check.name for check in model_checks.examine(repository, None, [])]

    def test_the_models_of_its_steps_have_to_be_there(self, with_ensemble: Path) -> None:
        step = 'ensemble_scheduling { step [ { model_name: "m" model_version: -1 }, { model_name: "gone" } ] }'
        (with_ensemble / "pipeline/config.pbtxt").write_text(f'platform: "ensemble"\n{step}\n')
        check = find(with_ensemble, "pipeline: steps")
        assert check.status is Status.FAIL
        assert check.found.endswith(": gone")


class TestWeights:
    def test_whole_ones(self, repository: Path) -> None:
        assert find(repository, "m: weights").status is Status.OK
        whole = weights.check(repository / "m/1/weights")
        split(repository / "m/1/weights")
        assert weights.check(repository / "m/1/weights") == whole

    def test_a_name_on_a_hub_is_not_looked_for(self, repository: Path) -> None:
        write_args(repository, {"model": "Qwen/Qwen3-0.6B"})
        assert "is a name on a hub" in find(repository, "m: weights").found

    def break_and_find(self, repository: Path) -> Check:
        check = find(repository, "m: weights")
        assert check.status is Status.FAIL
        assert check.fix
        return check

    def test_no_folder(self, repository: Path) -> None:
        write_args(repository, {"model": "elsewhere"})
        assert "elsewhere does not exist" in self.break_and_find(repository).found

    def test_no_config(self, repository: Path) -> None:
        (repository / "m/1/weights/config.json").unlink()
        assert "no config.json" in self.break_and_find(repository).found

    def test_no_weights(self, repository: Path) -> None:
        (repository / "m/1/weights/model.safetensors").unlink()
        assert "contains no weights" in self.break_and_find(repository).found

    @pytest.mark.parametrize("kept", [4, 100, -1])
    def test_a_file_that_ends_early(self, repository: Path, kept: int) -> None:
        file = repository / "m/1/weights/model.safetensors"
        file.write_bytes(file.read_bytes()[:kept])
        assert "model.safetensors" in self.break_and_find(repository).found

    def test_a_pointer_of_git_lfs(self, repository: Path) -> None:
        file = repository / "m/1/weights/model.safetensors"
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
        assert self.break_and_find(repository).fix == "git lfs pull"

    def test_a_file_of_the_index_that_is_missing(self, repository: Path) -> None:
        split(repository / "m/1/weights")
        (repository / "m/1/weights/b.safetensors").unlink()
        assert "1 of 2 files" in self.break_and_find(repository).found
        assert "b.safetensors" in self.break_and_find(repository).found

    def test_a_tensor_of_the_index_that_no_file_has(self, repository: Path) -> None:
        index = repository / "m/1/weights/model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": split(index.parent) | {"lost.weight": "a.safetensors"}}))
        assert "a.safetensors lacks 1 tensors" in self.break_and_find(repository).found
        assert "lost.weight" in self.break_and_find(repository).found

    def test_an_index_that_is_none(self, repository: Path) -> None:
        (repository / "m/1/weights/model.safetensors.index.json").write_text("[]")
        assert "is not an index" in self.break_and_find(repository).found


class TestMedia:
    def test_a_vision_language_model(self, repository: Path) -> None:
        assert find(repository, "m: media").found == "the model takes media (config.json has vision_config)"

    def test_a_text_model_is_fine_until_media_are_asked_for(self, repository: Path) -> None:
        write_config(repository, QWEN3)
        assert find(repository, "m: media").status is Status.OK
        write_args(repository, {"model": "weights", "limit_mm_per_prompt": {"image": 3}})
        (repository / "m/config.pbtxt").write_text(
            CONFIG + 'parameters { key: "ALLOWED_MEDIA_DOMAINS" value: { string_value: "a.example" } }\n'
        )
        check = find(repository, "m: media")
        assert check.status is Status.FAIL
        assert "text-only, and ALLOWED_MEDIA_DOMAINS, limit_mm_per_prompt is set" in check.found


class TestLength:
    @pytest.mark.parametrize(
        ("length", "status"),
        [(8192, Status.OK), (40960, Status.OK), ("auto", Status.OK), (-1, Status.OK), (40961, Status.FAIL)],
    )
    def test_max_model_len_against_the_models_own(self, repository: Path, length: object, status: Status) -> None:
        write_config(repository, QWEN3)
        write_args(repository, {"model": "weights", "max_model_len": length})
        assert find(repository, "m: max_model_len").status is status

    def test_what_is_no_number(self, repository: Path) -> None:
        write_args(repository, {"model": "weights", "max_model_len": "long"})
        assert find(repository, "m: max_model_len").found == "'long' is not a number"

    @pytest.mark.parametrize(
        ("scaling", "expected"),
        [
            (None, 40960),
            ({"type": "linear", "factor": 2.0}, 81920),
            ({"rope_type": "yarn", "factor": 4.0}, 40960),
            ({"rope_type": "default", "mrope_section": [8, 12, 12]}, 40960),
        ],
    )
    def test_stretching_counts_as_in_vllm(self, scaling: dict[str, Any] | None, expected: int) -> None:
        assert kv_cache.longest_context(QWEN3 | {"rope_scaling": scaling}) == expected


class TestMemory:
    def test_the_kv_cache_of_qwen3(self) -> None:
        # 2 x 28 layers x 8 KV heads x 128 x 2 bytes
        assert kv_cache.kv_bytes_per_token(QWEN3, {}) == 114_688
        assert kv_cache.kv_bytes_per_token(QWEN3, {"kv_cache_dtype": "fp8"}) == 57_344
        assert kv_cache.kv_bytes_per_token(QWEN3, {"dtype": "float32"}) == 229_376

    def test_latent_attention_and_what_is_no_transformer(self) -> None:
        deepseek = {
            "num_hidden_layers": 61,
            "num_attention_heads": 128,
            "kv_lora_rank": 512,
            "qk_rope_head_dim": 64,
            "torch_dtype": "bfloat16",
        }
        assert kv_cache.kv_bytes_per_token(deepseek, {}) == 61 * 576 * 2
        assert kv_cache.kv_bytes_per_token({"model_type": "mamba"}, {}) is None

    def test_gpus_share_and_one_kv_head_each_is_the_least(self) -> None:
        need = kv_cache.need_of(QWEN3, {"tensor_parallel_size": 2}, 10 * GIB, 1000)
        assert need is not None
        assert (need.weights, need.kv_per_token) == (5 * GIB, 57_344)
        one_head = kv_cache.kv_bytes_per_token(QWEN3 | {"num_key_value_heads": 1}, {"tensor_parallel_size": 4})
        assert one_head == 2 * 28 * 4 * 128 * 2

    def test_too_little_says_what_would_fit(self, repository: Path) -> None:
        write_config(repository, QWEN3)
        write_args(repository, {"model": "weights", "max_model_len": 40960, "gpu_memory_utilization": 0.5})
        assert find(repository, "m: GPU memory", gpus=(24 * GIB,)).status is Status.OK
        check = find(repository, "m: GPU memory", gpus=(8 * GIB,))
        assert check.status is Status.FAIL
        size = weights.check(repository / "m/1/weights")
        fits = (4 * GIB - size) // 114_688
        assert check.fix.startswith(f"set max_model_len to at most {fits};")
        write_args(repository, {"model": "weights", "max_model_len": fits, "gpu_memory_utilization": 0.5})
        assert find(repository, "m: GPU memory", gpus=(8 * GIB,)).status is Status.OK

    def test_weights_that_do_not_fit_at_all(self, repository: Path) -> None:
        check = find(repository, "m: GPU memory", gpus=(1024**2,))
        assert "take a quantised model" in check.fix

    def test_more_gpus_than_there_are(self, repository: Path) -> None:
        write_args(repository, {"model": "weights", "tensor_parallel_size": 4})
        check = find(repository, "m: GPU memory", gpus=(24 * GIB,) * 2)
        assert check.found == "model.json asks for 4 GPUs, there are 2"

    def test_the_gpus_of_other_nodes_are_not_looked_for_here(self, repository: Path) -> None:
        write_config(repository, QWEN3)
        several = {"model": "weights", "max_model_len": 1000, "tensor_parallel_size": 4}
        write_args(repository, several | {"nnodes": 2})
        assert find(repository, "m: GPU memory", gpus=(24 * GIB,) * 2).status is Status.OK
        write_args(repository, several | {"distributed_executor_backend": "ray"})
        check = find(repository, "m: GPU memory", gpus=(24 * GIB,) * 2)
        assert (check.status, check.found) == (Status.WARN, "model.json asks for 4 GPUs, this node has 2")
