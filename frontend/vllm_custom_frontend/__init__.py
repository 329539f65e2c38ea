"""An HTTP server for OpenAI's API in front of one or several Triton servers: ``python -m vllm_custom_frontend``.

It holds nothing but open requests, so any number of them may run behind a load balancer. It needs neither vLLM nor a
GPU, and imports nothing of the backend: this folder alone can be deployed.
"""
