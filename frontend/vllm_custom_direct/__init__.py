"""OpenAI's API from processes that use the models' engines themselves: ``python -m vllm_custom_direct``.

Each is a front of the models of a tritonserver on this machine, as Triton's own processes for them are: no request
passes through Triton. What the frontend has for HTTP and what the backend has for requests meet here.
"""
