"""Finding in tritonserver's log why a model did not load."""

import re

from tools.installer import ensembles

_FAILED = re.compile(r"failed to load '(?P<model>[^']+)' version (?P<version>\d+): (?P<reason>.*?)\"?$")
# Triton does not begin to load such a one.
_UNREADABLE = re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<reason>.*?)\"?$")
_FINAL = re.compile(r"^error: ", re.MULTILINE)


def failures(log: str) -> list[str]:
    """One text per model that did not load, with the traceback of the Python model where there is one."""
    found = {}
    for line in log.splitlines():
        match = _FAILED.search(line)
        if match:
            # Triton writes the message on one line, with its line ends escaped.
            reason = match["reason"].replace("\\n", "\n").replace('\\"', '"').strip()
            found[match["model"]] = f"model {match['model']!r}, version {match['version']}: {reason}"
        elif match := _UNREADABLE.search(line):
            hint = f"\n  {ensembles.FIX}" if ensembles.REFUSED in match["reason"] else ""
            found[match["model"]] = f"model {match['model']!r}: {match['reason']}{hint}"
    return list(found.values())


def load_failure(log: str) -> str:
    """What a reader needs of the log: the models that failed, else tritonserver's last words, else the end of it."""
    failed = failures(log)
    if failed:
        return "\n".join(failed)
    last = list(_FINAL.finditer(log))
    if last:
        return log[last[-1].start() :].strip()
    return "\n".join(log.splitlines()[-25:])
