#!/usr/bin/env bash
# curl: Triton's generate, and OpenAI's API of the frontend. A JSON body with an image goes through a pipe (-d @-): as an
# argument it would be too long for the shell.
set -euo pipefail

TRITON_HTTP=${TRITON_HTTP:-localhost:8000}
OPENAI_BASE_URL=${OPENAI_BASE_URL:-http://localhost:9000/v1}
MODEL=${MODEL:-shapes_vl}
IMAGE=${IMAGE:-docs/images/shapes.png}
IMAGE_URL=${IMAGE_URL:-http://media.internal/1.png}
question="Describe the image."
generate="http://$TRITON_HTTP/v2/models/$MODEL/generate"
json=(-sS --fail-with-body -H "Content-Type: application/json" -d @-)

echo "bytes: $(curl "${json[@]}" "$generate" <<END
{"text_input": "$question", "image": ["$(base64 -w0 "$IMAGE")"], "temperature": 0}
END
)"

# The host has to be in ALLOWED_MEDIA_DOMAINS of the model.
echo "url: $(curl "${json[@]}" "$generate" <<END
{"text_input": "$question", "image": ["$IMAGE_URL"], "temperature": 0}
END
)"

echo "stream:"
curl -N "${json[@]}" "${generate}_stream" <<END
{"text_input": "$question", "image": ["$(base64 -w0 "$IMAGE")"], "temperature": 0, "stream": true}
END

# The model needs TOOL_CALL_PARSER and ENABLE_AUTO_TOOL_CHOICE.
echo "tool: $(curl "${json[@]}" "$OPENAI_BASE_URL/chat/completions" <<END
{"model": "$MODEL", "messages": [{"role": "user", "content": "Paint it red."}], "max_tokens": 50, "temperature": 0,
 "tool_choice": {"type": "function", "function": {"name": "paint"}},
 "tools": [{"type": "function", "function": {"name": "paint", "parameters":
  {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}}}]}
END
)"

echo "batch: $(curl "${json[@]}" "$OPENAI_BASE_URL/completions" <<END
{"model": "$MODEL", "prompt": ["1+1=", "2+3=", "4+4=", "3+6="], "temperature": 0, "max_tokens": 10}
END
)"
