"""Where media come from, what is allowed, and how processes of their own decode them.

It imports nothing: those processes import :mod:`vllm_custom.media.decoders`, and with it this file.
"""
