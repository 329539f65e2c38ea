"""An HTTP server for OpenAI's API in front of one or several Triton servers: ``python -m vllm_custom.frontend``.

It holds nothing but open requests, so any number of them may run behind a load balancer. It needs neither vLLM nor a
GPU.
"""
