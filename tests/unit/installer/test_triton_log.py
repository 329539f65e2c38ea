"""What is quoted from tritonserver's log. The lines are from tritonserver 2.51, shortened."""

from tools.installer import triton_log

FAILED = (
    'I1121 08:22:22.1 609 model_lifecycle.cc:472] "loading: shapes_vl:1"\n'
    "E1121 08:22:22.2 609 model_lifecycle.cc:642] \"failed to load 'shapes_vl' version 1: Internal: ConfigError: "
    'multi_lora.json: zh\\n\\nAt:\\n  model.py(55): initialize\\n"\n'
    "| shapes_vl | 1 | UNAVAILABLE: Internal |\n"
    "error: creating server: Internal - failed to load all models\n"
)


def test_a_model_that_failed_is_quoted_with_its_traceback() -> None:
    assert triton_log.load_failure(FAILED) == (
        "model 'shapes_vl', version 1: Internal: ConfigError: multi_lora.json: zh\n\nAt:\n  model.py(55): initialize"
    )


def test_a_model_is_quoted_once_with_its_last_reason() -> None:
    assert len(triton_log.failures(FAILED + FAILED)) == 1


def test_a_model_whose_configuration_is_refused_is_quoted() -> None:
    line = "E1121 08:22:22.2 609 model_repository_manager.cc:1335] \"Poll failed for model directory 'm': {}\"\n"
    assert triton_log.load_failure(line.format("no version folder")) == "model 'm': no version folder"
    ensemble = triton_log.load_failure(line.format("unexpected platform type 'ensemble' for m"))
    assert ensemble.startswith("model 'm': unexpected platform type 'ensemble' for m\n")
    assert "24.10 or later" in ensemble


def test_else_the_last_words() -> None:
    assert triton_log.load_failure("I1 starting\nerror: creating server: Invalid argument - bad flag\n  more\n") == (
        "error: creating server: Invalid argument - bad flag\n  more"
    )


def test_else_the_end_of_the_log() -> None:
    lines = [f"line {number}" for number in range(100)]
    assert triton_log.load_failure("\n".join(lines)).splitlines() == lines[-25:]
