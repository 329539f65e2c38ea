"""A small program in the place of tritonserver: it answers that it is ready, has a child, and drains on SIGTERM."""

from __future__ import annotations

import sys

_PROGRAM = """#!{python}
import http.server, os, resource, signal, subprocess, sys, threading
flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:] if "=" in argument)
print("started", flush=True)
if "fail" in flags:
    sys.exit("error: creating server: failed to load all models")
child = subprocess.Popen(["setsid", "sleep", "60"])
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass
server = http.server.HTTPServer((flags["http-address"], int(flags["http-port"])), Answer)
def stop(number, frame):
    if flags.get("ends-by") == "hanging":
        os.kill(os.getpid(), signal.SIGSTOP)
    if flags.get("ends-by") == "crashing":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signal.SIGSEGV)
    threading.Thread(target=server.shutdown).start()
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, lambda *_: os._exit(99))
server.serve_forever()
print("drained", flush=True)
"""


def program() -> str:
    """For a file named tritonserver. Of its options it takes ``--fail=1`` and ``--ends-by=hanging`` or ``crashing``."""
    return _PROGRAM.format(python=sys.executable)
