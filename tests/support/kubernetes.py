"""What is in deploy/kubernetes, read as plain YAML; and the fields of custom resources that it may use."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import build
from tools.installer.paths import CHECKOUT

FOLDER = CHECKOUT / "deploy/kubernetes"
KUSTOMIZATION = "kustomization.yaml"
# For a Helm chart of somebody else.
ADAPTER_VALUES = FOLDER / "components/hpa/adapter-values.yaml"

# A type, a mapping of names, a list whose only element says what all are, or ANYTHING.
Fields = Any
ANYTHING = object()
# Read in the definitions of KEDA, the Prometheus operator, LeaderWorkerSet and KServe (August 2026). What is ANYTHING
# is Kubernetes' own: pods, which are most of it, are compared with its schemas.
CUSTOM: Mapping[str, Fields] = {
    "keda.sh/v1alpha1/ScaledObject": {
        "scaleTargetRef": {"name": str, "kind": str, "apiVersion": str},
        "minReplicaCount": int,
        "maxReplicaCount": int,
        "pollingInterval": int,
        "cooldownPeriod": int,
        "triggers": [
            {"type": str, "metricType": str, "metadata": {"serverAddress": str, "query": str, "threshold": str}}
        ],
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": ANYTHING}},
    },
    "monitoring.coreos.com/v1/PodMonitor": {
        "selector": {"matchLabels": ANYTHING},
        "podMetricsEndpoints": [
            {
                "port": str,
                "path": str,
                "interval": str,
                "relabelings": [{"targetLabel": str, "replacement": str}],
                "metricRelabelings": [{"sourceLabels": [str], "targetLabel": str}],
            }
        ],
    },
    "leaderworkerset.x-k8s.io/v1/LeaderWorkerSet": {
        "replicas": int,
        "startupPolicy": str,
        "leaderWorkerTemplate": {
            "size": int,
            "restartPolicy": str,
            "leaderTemplate": ANYTHING,
            "workerTemplate": ANYTHING,
        },
    },
    "serving.kserve.io/v1alpha1/ServingRuntime": {
        "annotations": ANYTHING,
        "multiModel": bool,
        "supportedModelFormats": [{"name": str, "version": str, "autoSelect": bool}],
        "containers": ANYTHING,
        "volumes": ANYTHING,
        "tolerations": ANYTHING,
    },
    "serving.kserve.io/v1beta1/InferenceService": {
        "predictor": {
            "minReplicas": int,
            "maxReplicas": int,
            "terminationGracePeriodSeconds": int,
            "securityContext": ANYTHING,
            "model": {"runtime": str, "modelFormat": {"name": str, "version": str}, "storageUri": str},
        }
    },
}


@dataclass(frozen=True)
class Pod:
    """A pod that something in the folder makes.

    Attributes:
        origin: name of what makes it.
        labels: of the pod.
        spec: of the pod; its first container is ours.
    """

    origin: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    @property
    def container(self) -> Mapping[str, Any]:
        return self.spec["containers"][0]

    @property
    def ports(self) -> dict[str, int]:
        """By name, or by number where they have none."""
        return {port.get("name", str(port["containerPort"])): port["containerPort"] for port in self.container["ports"]}


@dataclass(frozen=True)
class Command:
    """What a container runs.

    Attributes:
        port: of the OpenAI frontend.
        frontend: options of the frontend.
        triton: tritonserver and its options.
    """

    port: int
    frontend: list[str]
    triton: list[str]


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def manifests() -> list[dict[str, Any]]:
    """Everything that is applied."""
    return [
        document
        for path in sorted(FOLDER.rglob("*.yaml"))
        if path.name != KUSTOMIZATION and path != ADAPTER_VALUES
        for document in documents(path)
    ]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in manifests() if document["kind"] == kind]


def servers() -> list[Pod]:
    """Pods with tritonserver and the frontend, as they are made."""
    found = [Pod(it["metadata"]["name"], *_template(it["spec"]["template"])) for it in of_kind("Deployment")]
    for group in of_kind("LeaderWorkerSet"):
        leader = group["spec"]["leaderWorkerTemplate"]["leaderTemplate"]
        found.append(Pod(f"{group['metadata']['name']} leader", *_template(leader)))
    runtimes = {it["metadata"]["name"]: it for it in of_kind("ServingRuntime")}
    for service in of_kind("InferenceService"):
        predictor = dict(service["spec"]["predictor"])
        runtime = runtimes[predictor.pop("model")["runtime"]]
        kept = {key: value for key, value in predictor.items() if not key.endswith("Replicas")}
        pod = {key: runtime["spec"][key] for key in ("containers", "volumes", "tolerations")}
        # KServe mounts the model repository, and calls the claim as it likes.
        found.append(Pod("kserve", service["metadata"]["labels"], kept | pod))
    return found


def workers() -> list[Pod]:
    """Pods with a part of an engine and nothing that serves."""
    return [
        Pod(f"{group['metadata']['name']} worker", *_template(group["spec"]["leaderWorkerTemplate"]["workerTemplate"]))
        for group in of_kind("LeaderWorkerSet")
    ]


def _template(template: Mapping[str, Any]) -> tuple[Mapping[str, str], Mapping[str, Any]]:
    return template["metadata"]["labels"], template["spec"]


def command(pod: Pod) -> Command:
    """What build.py makes of the container's arguments."""
    python, program, *arguments = pod.container["args"]
    assert (python, program) == ("python3", "/opt/vllm_custom/build.py")
    split = arguments.index("--")
    options = build.parser().parse_args(arguments[:split])
    assert options.command == "supervise"
    triton = [options.program, *arguments[split + 1 :]]
    return Command(options.openai_port, shlex.split(options.openai_options), triton)


def queries() -> list[str]:
    """What autoscalers ask Prometheus."""
    triggers = [trigger for it in of_kind("ScaledObject") for trigger in it["spec"]["triggers"]]
    (values,) = documents(ADAPTER_VALUES)
    return [trigger["metadata"]["query"] for trigger in triggers] + [
        rule["seriesQuery"] for rule in values["rules"]["custom"]
    ]


def wrong_fields(value: Any, allowed: Fields, place: str = "spec") -> Iterator[str]:
    """What of a custom resource's field is not as its definition has it."""
    if allowed is ANYTHING:
        return
    if isinstance(allowed, dict):
        if not isinstance(value, dict):
            yield f"{place}: expected an object"
            return
        for name, below in value.items():
            if name not in allowed:
                yield f"{place}.{name}: unknown"
            else:
                yield from wrong_fields(below, allowed[name], f"{place}.{name}")
    elif isinstance(allowed, list):
        if not isinstance(value, list):
            yield f"{place}: expected a list"
            return
        for index, below in enumerate(value):
            yield from wrong_fields(below, allowed[0], f"{place}[{index}]")
    elif type(value) is not allowed:
        yield f"{place}: expected {allowed.__name__}"
