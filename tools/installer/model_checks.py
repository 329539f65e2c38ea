"""What `doctor` checks of the models in a repository: weights, media, lengths, memory, ensembles."""

from collections.abc import Sequence
from pathlib import Path

from tools.installer import ensembles, kv_cache, stub_paths, weights
from tools.installer.checks import Check, Checks, Status
from tools.installer.kv_cache import GIB
from tools.installer.repository import Model, models_of

# Keys of config.json that only models with media have.
_MEDIA_KEYS = (
    "vision_config",
    "visual",
    "audio_config",
    "thinker_config",
    "image_token_id",
    "image_token_index",
    "video_token_id",
    "audio_token_id",
    "mm_vision_tower",
)
_ALLOWANCES = ("ALLOWED_MEDIA_DOMAINS", "ALLOWED_MEDIA_NETWORKS", "ALLOWED_LOCAL_MEDIA_PATH")


def examine(
    repository: Path, server_library: Path | None, gpu_bytes: Sequence[int], models: Sequence[Model] | None = None
) -> list[Check]:
    """All models of a repository.

    Args:
        repository: the folder of models.
        server_library: libtritonserver of the server that is to serve them, None where it is not known.
        gpu_bytes: memory of each GPU; empty without GPUs.
        models: of the repository; None to read them here.
    """
    if not repository.is_dir():
        fix = "give --model-repository the folder that holds the models' folders"
        return [Check("model repository", Status.FAIL, f"{repository} does not exist", fix)]
    models = models_of(repository) if models is None else models
    others = list(_no_models(repository))
    if not models:
        fix = "a model is a folder with config.pbtxt and a folder 1"
        return [Check("model repository", Status.FAIL, f"{repository} contains no model", fix), *others]
    checks = [Check("model repository", Status.OK, f"{len(models)} models in {repository}")]
    if any(model.is_ensemble for model in models):
        checks.append(ensemble_check(server_library))
    names = {model.name for model in models}
    for model in models:
        checks += _load_checks(model)
        if missing := [step for step in model.steps if step not in names]:
            fix = "put them there: Triton loads an ensemble together with its models"
            checks.append(Check(f"{model.name}: steps", Status.FAIL, f"not in {repository}: {', '.join(missing)}", fix))
        if model.is_ours:
            checks += examine_model(model, gpu_bytes)
    return [*checks, *others]


def _no_models(repository: Path) -> Checks:
    """What lies in a repository and is no model, which Triton tries to load nevertheless."""
    for path in sorted(repository.iterdir()):
        if path.name.startswith(".") or (path / "config.pbtxt").is_file():
            continue
        if path.is_symlink() and not path.exists():
            yield Check(
                path.name, Status.FAIL, f"a link to {path.readlink()}, which does not exist", "replace or remove it"
            )
        elif path.is_dir() and (any(path.glob("*/model.json")) or not any(path.iterdir())):
            fix = 'write one, at least backend: "vllm_custom"; or move the folder away'
            yield Check(path.name, Status.FAIL, "a folder without config.pbtxt", fix)
        elif path.is_dir():
            fix = "right where its backend completes it, as ONNX Runtime's does"
            yield Check(path.name, Status.WARN, "a folder without config.pbtxt", fix)


def _load_checks(model: Model) -> Checks:
    """What Triton and the backend themselves say of the model's files, before an engine starts."""
    found = model.inspection
    if unusable := stub_paths.unusable([model.folder.parent.resolve() / model.folder.name]):
        found_there = f"Triton cannot start its process from {unusable[0]!r}"
        yield Check(f"{model.name}: folder", Status.FAIL, found_there, stub_paths.FIX)
    if found.problem:
        fix = "correct it there (protobuf's text format)"
        if "cannot be read without" in found.problem:
            fix = "install (build.py install), or give --python one that has protobuf"
        yield Check(f"{model.name}: config.pbtxt", Status.FAIL, found.problem, fix)
    elif model.is_ours and model.version_folder is None:
        fix = "make a folder 1 with model.json in it"
        yield Check(f"{model.name}: version", Status.FAIL, "the model has no version folder", fix)
    elif found.refused:
        yield Check(f"{model.name}: load", Status.FAIL, found.refused, "correct it: the model would not load")


def ensemble_check(server_library: Path | None) -> Check:
    """Whether the server was built with ensembles."""
    if server_library is None:
        return Check("ensembles", Status.WARN, "not known of this server", "give --triton its folder")
    if ensembles.has_them(server_library):
        return Check("ensembles", Status.OK, "this server has them")
    return Check("ensembles", Status.FAIL, ensembles.MISSING, ensembles.FIX)


def examine_model(model: Model, gpu_bytes: Sequence[int]) -> Checks:
    """One model of the vLLM backends."""
    try:
        arguments = model.engine_args
    except (OSError, ValueError) as error:
        fix = 'write vLLM\'s engine arguments there, at least {"model": ...}'
        yield Check(f"{model.name}: model.json", Status.FAIL, str(error), fix)
        return
    folder = model.weights
    if folder is None:
        found = f"{arguments.get('model')} is a name on a hub: nothing to look at before it is loaded"
        yield Check(f"{model.name}: weights", Status.OK, found)
        return
    try:
        size = weights.check(folder)
    except weights.IncompleteError as error:
        yield Check(f"{model.name}: weights", Status.FAIL, str(error), error.fix)
        return
    yield Check(f"{model.name}: weights", Status.OK, f"{size / GIB:.2f} GiB, all files whole")
    yield _media_check(model)
    yield from _length_and_memory(model, size, gpu_bytes)


def _media_check(model: Model) -> Check:
    name = f"{model.name}: media"
    found = [key for key in _MEDIA_KEYS if key in model.hf_config]
    if found:
        return Check(name, Status.OK, f"the model takes media (config.json has {found[0]})")
    asked = [key for key in _ALLOWANCES if model.parameters.get(key)]
    asked += ["limit_mm_per_prompt"] if model.engine_args.get("limit_mm_per_prompt") else []
    if asked:
        fix = "take a vision-language model, or remove these settings"
        return Check(name, Status.FAIL, f"the model is text-only, and {', '.join(asked)} is set", fix)
    return Check(name, Status.OK, "text only: requests with images will be refused")


def _length_and_memory(model: Model, size: int, gpu_bytes: Sequence[int]) -> Checks:
    name, key = f"{model.name}: max_model_len", model.engine_args.get("max_model_len")
    longest = kv_cache.longest_context(model.text_config)
    try:
        length = kv_cache.read_length(key)
    except ValueError:
        yield Check(name, Status.FAIL, f"{key!r} is not a number", 'write a number, or "auto"')
        return
    if length is not None and longest is not None and length > longest:
        fix = f"at most {longest} (VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 overrides it, at the cost of wrong answers)"
        yield Check(name, Status.FAIL, f"{length}, and the model was made for {longest}", fix)
        return
    wanted = length or longest
    yield Check(name, Status.OK, f"{wanted or 'not known'} of {longest or 'an unknown length'}")
    if wanted and gpu_bytes:
        yield memory_check(model, size, wanted, gpu_bytes)


def memory_check(model: Model, size: int, length: int, gpu_bytes: Sequence[int]) -> Check:
    """Do the weights and one request of the longest kind fit into each GPU?"""
    name = f"{model.name}: GPU memory"
    need = kv_cache.need_of(model.text_config, model.engine_args, size, length)
    if need is None:
        return Check(name, Status.WARN, "config.json does not describe the KV cache", "try it, and watch the log")
    parallel = _gpus_asked_for(model)
    if parallel > len(gpu_bytes) and model.engine_args.get("distributed_executor_backend") == "ray":
        fix = "`ray status` says what its nodes have together"
        return Check(name, Status.WARN, f"model.json asks for {parallel} GPUs, this node has {len(gpu_bytes)}", fix)
    if parallel > len(gpu_bytes):
        fix = f"set tensor_parallel_size to at most {len(gpu_bytes)}"
        return Check(name, Status.FAIL, f"model.json asks for {parallel} GPUs, there are {len(gpu_bytes)}", fix)
    utilization = float(model.engine_args.get("gpu_memory_utilization", kv_cache.UTILIZATION))
    budget = int(min(gpu_bytes[:parallel]) * utilization)
    text = (
        f"{need.weights / GIB:.2f} GiB of weights and {need.kv_cache / GIB:.2f} GiB of KV cache for {length} tokens, "
        f"{budget / GIB:.2f} GiB per GPU at gpu_memory_utilization {utilization}"
    )
    if need.total <= budget:
        return Check(name, Status.OK, text)
    fits = need.longest(budget)
    fix = f"set max_model_len to at most {fits}" if fits else "take a quantised model, or set tensor_parallel_size"
    return Check(name, Status.FAIL, f"too little: {text}", f"{fix}; activations come on top")


def _gpus_asked_for(model: Model) -> int:
    """On this node."""
    arguments = model.engine_args
    asked = int(arguments.get("tensor_parallel_size", 1)) * int(arguments.get("pipeline_parallel_size", 1))
    return max(1, asked // int(arguments.get("nnodes", 1)))
