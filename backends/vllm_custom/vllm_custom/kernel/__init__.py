"""What vllm_custom and the stand-in in backends/vllm have in common: one dialect of errors, one reading of files.

The installer copies this folder into the stand-in as `vllm_backend_lib/kernel`, so that each backend has its own,
under its own name: both can be in one process, in different versions. Therefore modules here import each other
relatively, and nothing else of the two backends. Nor do they import vLLM.
"""
