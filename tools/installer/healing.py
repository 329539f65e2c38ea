"""Replace instances whose process was killed, which Triton does not.

It goes on sending such an instance its share of the requests, which fail at once. Under explicit model control, a load
with another configuration has Triton start all instances anew, which find the engine that the old ones share; then they
take the requests, and the old ones end what they have. A parameter of the configuration counts how often. Where this
fails, the model is unloaded and loaded again; a shared engine stays meanwhile for ENGINE_GRACE_PERIOD.

Triton can also change instances in place. By its source it would end the wrong ones, and the streams of one that lives
would hang: as soon as it is told to end, Triton sends no more of its responses.
"""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from tools.installer import triton_options
from tools.installer.instances import Instance, Instances
from tools.installer.load_guard import LoadGuard
from tools.installer.processes import Process

_LOOK_SECONDS = 0.5
# Before the first try, the second and so on, of one model within an hour; after the last one it is left as it is.
PAUSES_SECONDS = (0.0, 0.0, 10.0, 60.0, 300.0, 600.0)
_REMEMBER_SECONDS = 3600.0
_LOAD_SECONDS = 3600.0
_UNLOAD_SECONDS = 120.0
# Before each try to load a model that has been unloaded. A shared engine that is full ends within its grace period.
_LOAD_PAUSES_SECONDS = (0.0, 15.0, 60.0, 300.0)
_COUNTER = "INSTANCES_REPLACED"


class HealingError(Exception):
    """Triton did not do it. The message says what it answered."""


class Healer:
    """For one tritonserver. ``look`` is to be called again and again; what takes long runs on a thread."""

    def __init__(
        self, server: int, http_url: str, say: Callable[[str], object], headers: Mapping[str, str] | None = None
    ) -> None:
        """
        Args:
            server: the process id of tritonserver, an ancestor of none but its own models' processes.
            http_url: of its HTTP service.
            say: gets a line for each thing that is done.
            headers: of requests to its model repository, where these are restricted.
        """
        self._server = server
        self._instances = Instances(server)
        self._triton = Repository(http_url, headers or {})
        self._say = say
        self._looked = 0.0
        self._tries: dict[str, list[float]] = {}
        self._given_up: set[str] = set()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """See which instances are lost, and start to replace them."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS or self.busy:
            return
        self._looked = now
        models: dict[str, dict[Process, Instance]] = {}
        for process, instance in (self._instances.lost() | self._instances.gone()).items():
            models.setdefault(instance.model, {})[process] = instance
        for model, lost in models.items():
            if self._is_due(model, lost, now):
                self._thread = threading.Thread(target=self._heal, args=(model, lost), name="healing", daemon=True)
                self._thread.start()
                return

    @property
    def busy(self) -> bool:
        """Whether instances are being replaced."""
        return self._thread is not None and self._thread.is_alive()

    def _is_due(self, model: str, lost: Mapping[Process, Instance], now: float) -> bool:
        tries = [at for at in self._tries.get(model, []) if now - at < _REMEMBER_SECONDS]
        if not tries:
            self._given_up.discard(model)
        if len(tries) < len(PAUSES_SECONDS):
            if tries and now - tries[-1] < PAUSES_SECONDS[len(tries)]:
                return False
            self._tries[model] = [*tries, now]
            return True
        if model not in self._given_up:
            self._given_up.add(model)
            self._say(f"{_names(lost)} gone once more; no further try within the hour")
        return False

    def _heal(self, model: str, lost: Mapping[Process, Instance]) -> None:
        began = time.monotonic()
        waited_for = lost.keys() <= self._instances.gone().keys()
        try:
            try:
                versions = self._triton.ready_versions(model)
                missed = versions > 0 and (not waited_for or self._is_short(model, versions))
            except (HealingError, OSError, http.client.HTTPException):
                if not waited_for:
                    raise
                self._tries[model].pop()  # it is asked again: Triton answers no request before the first load
                return
            if waited_for and not missed:
                self._instances.forget(set(lost))  # they were to end
                self._tries[model].pop()
            if not missed:  # it is being unloaded, or was
                return
            self._say(f"{_names(lost)} gone; replacing the instances (try {len(self._tries[model])})")
            how = self._replaced(model)
            self._say(f"the instances of {model} have been replaced{how}, in {time.monotonic() - began:.0f} s")
        except (HealingError, OSError, http.client.HTTPException) as error:
            self._say(f"the instances of {model} cannot be replaced: {error}")

    def _replaced(self, model: str) -> str:
        before = self._instances.of(model)
        try:
            self._load(model, counted(self._triton.config(model)))
            self._instances.lost()
            if not self._instances.of(model) - before:
                raise HealingError("Triton has started none")
            how = ""
        except HealingError as error:
            self._say(f"the instances of {model} cannot be replaced while it serves: {error}")
            self._load_again(model)
            how = " by loading the model again"
        gone = {process for process, instance in self._instances.gone().items() if instance.model == model}
        self._instances.forget(before | gone)  # Triton may keep them, for requests that the killed one had
        return how

    def _is_short(self, model: str, versions: int) -> bool:
        """Whether it has fewer instances than it is to have. They may have ended for another configuration."""
        return self._instances.alive(model) < instances_of(self._triton.config(model)) * versions

    def _load(self, model: str, config: Mapping[str, Any] | None = None) -> None:
        """One that hangs is ended, and tried once more."""
        with LoadGuard(self._server) as guard:
            try:
                self._triton.load(model, config)
                return
            except HealingError as error:
                if not guard.ended:
                    raise
                self._say(f"the load of {model} hung, and was ended ({error}); loading again")
        self._triton.load(model, config)

    def _load_again(self, model: str) -> None:
        self._triton.unload(model)
        for number, pause in enumerate(_LOAD_PAUSES_SECONDS, 1):
            time.sleep(pause)
            try:
                self._load(model)
                return
            except HealingError as error:
                if number == len(_LOAD_PAUSES_SECONDS):
                    raise
                self._say(f"{model} cannot be loaded: {error}; the next try comes later")


def counted(served: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that a model is served with, its instances replaced once more."""
    parameters = dict(served.get("parameters") or {})
    before = int(parameters.get(_COUNTER, {}).get("string_value") or 0)
    return {**served, "parameters": parameters | {_COUNTER: {"string_value": str(before + 1)}}}


def instances_of(served: Mapping[str, Any]) -> int:
    """How many instances of each version a configuration asks for."""
    groups = served.get("instance_group") or []
    return sum(int(group.get("count") or 1) * max(1, len(group.get("gpus") or [])) for group in groups)


def _names(lost: Mapping[Process, Instance]) -> str:
    names = sorted(instance.name for instance in lost.values())
    return f"the process{'es' if len(names) > 1 else ''} of {', '.join(names)}"


class Repository:
    """What tritonserver answers about its models over HTTP."""

    def __init__(self, http_url: str, headers: Mapping[str, str]) -> None:
        self._host = urlsplit(http_url).netloc
        self._headers = {"content-type": "application/json", **headers}

    def ready_versions(self, model: str) -> int:
        """How many of its versions serve. Raises HealingError, OSError, http.client.HTTPException."""
        entries = self._ask("POST", "/v2/repository/index", {})
        return sum(entry.get("name") == model and entry.get("state") == "READY" for entry in entries)

    def config(self, model: str) -> dict[str, Any]:
        """The completed configuration. Raises HealingError, OSError, http.client.HTTPException."""
        found: dict[str, Any] = self._ask("GET", f"/v2/models/{model}/config")
        return found

    def load(self, model: str, config: Mapping[str, Any] | None = None) -> None:
        """Returns when it is loaded. Raises HealingError, OSError, http.client.HTTPException."""
        body = {"parameters": {"config": json.dumps(config)}} if config is not None else {}
        self._ask("POST", f"/v2/repository/models/{model}/load", body)

    def unload(self, model: str) -> None:
        """Returns when it is gone, or after two minutes. Raises HealingError, OSError, http.client.HTTPException."""
        self._ask("POST", f"/v2/repository/models/{model}/unload", {})
        deadline = time.monotonic() + _UNLOAD_SECONDS
        while time.monotonic() < deadline and self.ready_versions(model):
            time.sleep(_LOOK_SECONDS)

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection(self._host, timeout=_LOAD_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), self._headers)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        if response.status != http.HTTPStatus.OK:
            raise HealingError(text.strip() or f"HTTP {response.status}")
        return json.loads(text) if text.strip() else {}


def healer_of(server: int, arguments: Sequence[str], say: Callable[[str], object]) -> Healer | None:
    """For a tritonserver that was started with ``arguments``; None where it does not load models on request."""
    url = triton_options.http_url(arguments)
    if not url or triton_options.value(arguments, "model-control-mode", "none").lower() != "explicit":
        return None
    headers = triton_options.headers(arguments, "model-repository", "model-config")
    return Healer(server, url, say, headers)
