"""The stand-in's package is on the path in Triton's stub; here this file puts it there."""

from __future__ import annotations

import sys
from pathlib import Path

BACKEND = Path(__file__).resolve().parents[3] / "backends" / "vllm"
if str(BACKEND) not in sys.path:
    sys.path.append(str(BACKEND))
