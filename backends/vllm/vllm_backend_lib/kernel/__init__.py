"""In a checkout: vllm_custom's kernel. Where this backend is installed, a copy of that folder is in place of this one.

So each backend has a kernel under a name of its own. Both can be in one process, and in different versions.
"""

from vllm_custom.kernel import devices as devices
from vllm_custom.kernel import embedding_request as embedding_request
from vllm_custom.kernel import engine_errors as engine_errors
from vllm_custom.kernel import errors as errors
from vllm_custom.kernel import fields as fields
from vllm_custom.kernel import json_objects as json_objects
from vllm_custom.kernel import leftovers as leftovers
from vllm_custom.kernel import metrics as metrics
from vllm_custom.kernel import model_files as model_files
from vllm_custom.kernel import nodes as nodes
from vllm_custom.kernel import numbers as numbers
from vllm_custom.kernel import official_tensors as official_tensors
from vllm_custom.kernel import official_texts as official_texts
from vllm_custom.kernel import orphans as orphans
from vllm_custom.kernel import owned_folders as owned_folders
from vllm_custom.kernel import sampling as sampling
from vllm_custom.kernel import series as series
from vllm_custom.kernel import tensors as tensors
from vllm_custom.kernel import text as text
