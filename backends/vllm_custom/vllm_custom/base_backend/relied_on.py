"""What this backend takes from the class that it builds on: the one list for the adapter and for `doctor --upstream`.

Where a name has changed between releases, all of its names are given, newest first.
"""

from __future__ import annotations

CLASS = "TritonPythonModel"

ENGINE = ("_llm_engine", "llm_engine")
EVENT_LOOP = ("_event_loop", "_loop")
SHUTDOWN_EVENT = ("_llm_engine_shutdown_event", "_shutdown_event")
REQUEST_COUNT = ("_ongoing_request_count", "ongoing_request_count")

# Assigned by the class to itself.
ATTRIBUTES = (
    ENGINE,
    EVENT_LOOP,
    SHUTDOWN_EVENT,
    REQUEST_COUNT,
    ("vllm_engine_config",),
    ("enable_lora",),
    ("lora_repository",),
    ("using_decoupled",),
)

# Called or overridden, with the arguments after self or cls.
METHODS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("auto_complete_config",): ("auto_complete_model_config",),
    ("initialize",): ("args",),
    ("execute",): ("requests",),
    ("finalize",): (),
    ("_validate_device_config", "validate_device_config"): (),
    ("_setup_lora", "setup_lora"): (),
}
