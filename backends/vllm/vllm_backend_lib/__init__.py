"""Parts of the stand-in vLLM backend; `model.py` next to this package wires them together.

vLLM is imported inside functions here, never at module level: Triton starts a process for nothing but
`auto_complete_config`, and importing vLLM there would add several seconds to every model load.
"""
