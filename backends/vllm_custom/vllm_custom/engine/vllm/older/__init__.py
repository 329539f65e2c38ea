"""What versions of vLLM before 0.20 do otherwise, found by looking for it and not by their number.

What is only in another place is found by :func:`find`. What is made another way is in the other modules, each for the
module of the same name next to this package. What an older version cannot do is refused by :func:`lacks`.
"""

from vllm_custom.engine.vllm.older.names import executor_class, find, has, lacks

__all__ = ["executor_class", "find", "has", "lacks"]
