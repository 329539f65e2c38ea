"""Names of the inputs and outputs, for the code that reads or fills them."""

from __future__ import annotations

# Inputs.
TEXT_INPUT = "text_input"
MESSAGES = "messages"
INPUT_IDS = "input_ids"
PROMPT_EMBEDS = "prompt_embeds"
IMAGE = "image"
VIDEO = "video"
AUDIO = "audio"
IMAGE_EMBEDS = "image_embeds"
IMAGE_GRID_THW = "image_grid_thw"
STREAM = "stream"
SAMPLING_PARAMETERS = "sampling_parameters"
STOP_WORDS = "stop_words"
BAD_WORDS = "bad_words"
EXCLUDE_INPUT_IN_OUTPUT = "exclude_input_in_output"
QUERIES = "queries"
DOCUMENTS = "documents"
EMBEDDING_REQUEST = "embedding_request"
OPENAI_REQUEST = "openai_request"
# Asks for the output whose name follows.
RETURN_PREFIX = "return_"

# Outputs.
TEXT_OUTPUT = "text_output"
FINISH_REASON = "finish_reason"
CUMULATIVE_LOGPROB = "cumulative_logprob"
LOGPROBS = "logprobs"
NUM_INPUT_TOKENS = "num_input_tokens"
NUM_OUTPUT_TOKENS = "num_output_tokens"
STOP_REASON = "stop_reason"
OUTPUT_IDS = "output_ids"
REASONING = "reasoning"
TOOL_CALLS = "tool_calls"
PROMPT_LOGPROBS = "prompt_logprobs"
REQUEST_METRICS = "request_metrics"
EMBEDDING = "embedding"
SCORES = "scores"
OPENAI_RESPONSE = "openai_response"
OPENAI_STATUS = "openai_status"
OPENAI_HEADERS = "openai_headers"

MEDIA_INPUTS = (IMAGE, VIDEO, AUDIO)
# The only optional outputs that a pooling model has.
TOKEN_COUNTS = frozenset({NUM_INPUT_TOKENS, NUM_OUTPUT_TOKENS})
