"""Would a model fetch this URL, and can its host be reached from here? Asked of the backend's own rules."""

import json
import os
import subprocess
from pathlib import Path

from tools.installer.checks import Check, Status
from tools.installer.paths import BACKEND_SOURCES
from tools.installer.repository import Model

_SECONDS = 10
# Runs in the environment's Python, which has what the rules are made of.
_ASK = """
import json, socket, sys
from vllm_custom.contract.hosts import HostPattern, parse_network
from vllm_custom.media.sources.policy import MediaPolicy, Refusal

url, domains, networks, seconds = json.loads(sys.argv[1])
parts = lambda text: [part.strip() for part in text.split(",") if part.strip()]
policy = MediaPolicy([HostPattern.parse(part) for part in parts(domains)], [parse_network(p) for p in parts(networks)])
target = policy.check_url(url)
answer = {}
if isinstance(target, Refusal):
    answer = {"rule": target.value, "reason": target.reason}
else:
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        answer["addresses"] = addresses
        rule = policy.check_addresses(addresses)
        if rule is not None:
            answer |= {"rule": "address", "reason": f"is {rule.value} and in no network of ALLOWED_MEDIA_NETWORKS"}
        else:
            socket.create_connection((addresses[0], target.port), timeout=seconds).close()
    except OSError as error:
        answer["error"] = str(error)
print(json.dumps(answer))
"""
_FIXES = {
    "host": "add the host to ALLOWED_MEDIA_DOMAINS in config.pbtxt",
    "port": "add host:port to ALLOWED_MEDIA_DOMAINS in config.pbtxt",
    "address": "add its network to ALLOWED_MEDIA_NETWORKS in config.pbtxt, if it may be reached",
}


def check(python: Path | str, model: Model, url: str) -> Check:
    """One URL for one model. Connects to the host, and asks it for nothing."""
    name = f"{model.name}: {url}"
    allowed = [model.parameters.get(key, "") for key in ("ALLOWED_MEDIA_DOMAINS", "ALLOWED_MEDIA_NETWORKS")]
    env = {**os.environ, "PYTHONPATH": str(BACKEND_SOURCES / "vllm_custom")}
    result = subprocess.run(
        [str(python), "-c", _ASK, json.dumps([url, *allowed, _SECONDS])],
        env=env,
        capture_output=True,
        text=True,
        timeout=10 * _SECONDS,
        check=False,
    )
    if result.returncode:
        problem = result.stderr.strip().splitlines()[-1:] or ["no answer"]
        return Check(name, Status.FAIL, f"the rules could not be asked: {problem[0]}", "see docs/security.md")
    answer = json.loads(result.stdout)
    if "rule" in answer:
        where = f" ({', '.join(answer['addresses'])})" if "addresses" in answer else ""
        return Check(
            name, Status.FAIL, f"{answer['reason']}{where}", _FIXES.get(answer["rule"], "see docs/security.md")
        )
    if "error" in answer:
        fix = "check the name, the network and the firewall between this machine and the host"
        return Check(name, Status.FAIL, f"allowed, and cannot be reached: {answer['error']}", fix)
    return Check(name, Status.OK, f"allowed, and reached at {answer['addresses'][0]}")
