"""What decodes media that clients send, and the processes in which it does so.

Nothing else decodes untrusted media. These modules run in worker processes that :mod:`vllm_custom.media.workers`
starts; they import Pillow, numpy, PyAV and nothing of the model's process but its errors.
"""
