"""The stand-in's package is on the path in Triton's stub; here this file puts it there."""

from __future__ import annotations

import sys

from tools.installer.paths import CHECKOUT

BACKEND = CHECKOUT / "backends" / "vllm"
if str(BACKEND) not in sys.path:
    sys.path.append(str(BACKEND))
