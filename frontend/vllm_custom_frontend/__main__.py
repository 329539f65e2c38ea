"""``python -m vllm_custom_frontend``: the same as the command ``vllm-custom-frontend``."""

from __future__ import annotations

from vllm_custom_frontend.script import main

if __name__ == "__main__":
    main()
