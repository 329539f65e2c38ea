"""What is in deploy/kubernetes is right by the schemas, and fits what this project's programs are."""

from __future__ import annotations

import copy
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import kubernetes
from tests.support.kubernetes import ADAPTER_VALUES, CUSTOM, FOLDER, KUSTOMIZATION, Pod, documents, of_kind
from tools.installer import image, supervise, together, triton_options
from tools.installer.image import ImageOptions
from tools.installer.paths import CHECKOUT
from vllm_custom_frontend import options as frontend_options
from vllm_custom_frontend.keys import KEYS_FILE_VARIABLE

HAS_SCHEMAS = importlib.util.find_spec("kubernetes_validate") is not None
SCHEMAS = pytest.mark.skipif(not HAS_SCHEMAS, reason="not run: kubernetes-validate is not installed")
KUBECTL = pytest.mark.skipif(not shutil.which("kubectl"), reason="not run: kubectl is not installed")
# The first one whose preStop may sleep, and one that was new when this was written.
KUBERNETES = ("1.30", "1.37")
MANIFESTS = kubernetes.manifests()
CORE = [it for it in MANIFESTS if f"{it['apiVersion']}/{it['kind']}" not in CUSTOM]
SERVERS = kubernetes.servers()
PODS = [*SERVERS, *kubernetes.workers()]
PAGE = (CHECKOUT / "docs/guides/kubernetes.md").read_text(encoding="utf-8")
_UNITS = {"Gi": 2**30, "Ti": 2**40}


def name(document: dict[str, Any]) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


def origin(pod: Pod) -> str:
    return pod.origin


def number_of_bytes(quantity: str) -> int:
    return int(quantity[:-2]) * _UNITS[quantity[-2:]]


def seconds(probe: dict[str, Any]) -> int:
    """How long a probe may fail."""
    return int(probe["periodSeconds"] * probe["failureThreshold"])


class TestFiles:
    def test_every_file_is_listed_in_its_folder_and_every_listed_one_is_there(self) -> None:
        for path in FOLDER.rglob(KUSTOMIZATION):
            (listed,) = documents(path)
            there = {it.name for it in path.parent.glob("*.yaml")} - {KUSTOMIZATION, ADAPTER_VALUES.name}
            assert sorted(listed["resources"]) == sorted(there), path
        folders = {path.parent for path in FOLDER.rglob("*.yaml")}
        assert all((folder / KUSTOMIZATION).is_file() for folder in folders)

    def test_each_thing_has_a_name_of_its_own(self) -> None:
        names = [name(document) for document in MANIFESTS]
        assert len(set(names)) == len(names)

    @KUBECTL
    @pytest.mark.parametrize("folder", ["base", "multi-node", "kserve"])
    def test_kustomize_builds_it(self, folder: str) -> None:
        built = kustomized(FOLDER / folder)
        there = [
            it for path in (FOLDER / folder).glob("*.yaml") for it in documents(path) if path.name != KUSTOMIZATION
        ]
        assert sorted(map(name, built)) == sorted(map(name, there))

    @KUBECTL
    def test_the_overlay_of_the_page_can_be_built(self, tmp_path: Path) -> None:
        """It stands next to deploy/kubernetes there."""
        (overlay,) = re.findall(r"```yaml\n(apiVersion: kustomize.*?)```", PAGE, re.DOTALL)
        shutil.copytree(FOLDER, tmp_path / "deploy/kubernetes")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / KUSTOMIZATION).write_text(overlay)
        built = kustomized(tmp_path / "mine")
        assert {it["kind"] for it in built} >= {"Deployment", "PodMonitor", "ScaledObject"}
        assert {it["metadata"]["namespace"] for it in built} == {"vision"}
        (deployment,) = [it for it in built if it["kind"] == "Deployment"]
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        assert container["image"] == "registry.example/vllm_custom:1"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
        assert container["resources"]["limits"]["memory"] == "64Gi", "the rest stays"
        (scaled,) = [it for it in built if it["kind"] == "ScaledObject"]
        assert all('namespace="vision"' in trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"])


def kustomized(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@SCHEMAS
class TestSchemas:
    """Of Kubernetes itself, without fields that they do not know."""

    @pytest.mark.parametrize("version", KUBERNETES)
    @pytest.mark.parametrize("document", CORE, ids=name)
    def test_the_schema_holds(self, document: dict[str, Any], version: str) -> None:
        check(document, version)

    @pytest.mark.parametrize("version", KUBERNETES)
    @pytest.mark.parametrize("pod", PODS, ids=origin)
    def test_what_custom_resources_make_are_pods(self, pod: Pod, version: str) -> None:
        check({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": pod.labels}, "spec": pod.spec}, version)

    def test_a_field_that_is_unknown_is_found(self) -> None:
        wrong = copy.deepcopy(of_kind("Deployment")[0])
        wrong["spec"]["template"]["spec"]["containers"][0]["readinessProb"] = {}
        with pytest.raises(Exception, match="readinessProb"):
            check(wrong, KUBERNETES[0])


def check(document: dict[str, Any], version: str) -> None:
    validate: Any = importlib.import_module("kubernetes_validate").validate
    validate(document, version, strict=True)


class TestCustomResources:
    @pytest.mark.parametrize("document", [it for it in MANIFESTS if it not in CORE], ids=name)
    def test_fields_are_those_of_the_definition(self, document: dict[str, Any]) -> None:
        allowed = CUSTOM[f"{document['apiVersion']}/{document['kind']}"]
        assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
        assert list(kubernetes.wrong_fields(document["spec"], allowed)) == []

    def test_what_is_wrong_is_found(self) -> None:
        allowed = CUSTOM["monitoring.coreos.com/v1/PodMonitor"]
        wrong = {"pods": {}, "podMetricsEndpoints": [{"port": 8002}]}
        assert list(kubernetes.wrong_fields(wrong, allowed)) == [
            "spec.pods: unknown",
            "spec.podMetricsEndpoints[0].port: expected str",
        ]


def test_jobs_are_named_as_the_rules_have_them() -> None:
    (monitor,) = [it for it in MANIFESTS if it["kind"] == "PodMonitor"]
    endpoints = monitor["spec"]["podMetricsEndpoints"]
    scraped = yaml.safe_load((CHECKOUT / "deploy/monitoring/prometheus.yml").read_text())["scrape_configs"]
    assert [it["relabelings"][0]["replacement"] for it in endpoints] == [job["job_name"] for job in scraped]


class TestPods:
    @pytest.mark.parametrize("pod", PODS, ids=origin)
    def test_it_runs_as_the_images_user_without_any_right(self, pod: Pod) -> None:
        user, group = map(int, image._USER.split(":"))
        context = pod.spec["securityContext"] | pod.container["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"], context["fsGroup"]) == (True, user, group)
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        if pod.origin != "kserve":
            assert pod.spec["automountServiceAccountToken"] is False

    @pytest.mark.parametrize("pod", PODS, ids=origin)
    def test_what_is_written_has_a_volume(self, pod: Pod) -> None:
        mounts = {mount["mountPath"]: mount for mount in pod.container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
        assert {mount["name"] for mount in mounts.values()} == set(volumes)
        written = {
            path: volumes[mount["name"]]["emptyDir"] for path, mount in mounts.items() if "readOnly" not in mount
        }
        assert set(written) == {image._CACHE, "/tmp", "/dev/shm"}
        assert written["/dev/shm"]["medium"] == "Memory"
        assert all("medium" not in volume for path, volume in written.items() if path != "/dev/shm")
        memory = number_of_bytes(pod.container["resources"]["limits"]["memory"])
        assert number_of_bytes(written["/dev/shm"]["sizeLimit"]) <= memory / 4, "/dev/shm counts as memory"

    @pytest.mark.parametrize("pod", PODS, ids=origin)
    def test_it_asks_for_gpus(self, pod: Pod) -> None:
        resources = pod.container["resources"]
        assert int(resources["limits"]["nvidia.com/gpu"]) >= 1
        assert number_of_bytes(resources["requests"]["memory"]) <= number_of_bytes(resources["limits"]["memory"])
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod.spec["tolerations"]


class TestServers:
    @pytest.mark.parametrize("pod", SERVERS, ids=origin)
    def test_the_command_is_the_images_with_more_options(self, pod: Pod) -> None:
        command = kubernetes.command(pod)
        assert command.triton[0] == "tritonserver"
        mounted = "/mnt/models" if pod.origin == "kserve" else "/models"
        wanted = [option.replace("/models", mounted) for option in image._OPTIONS]
        assert command.triton[1 : 1 + len(wanted)] == wanted
        text = image.dockerfile(ImageOptions(openai_port=command.port))
        assert all(f'"{word}"' in text for word in pod.container["args"][:4])

    @pytest.mark.parametrize("pod", SERVERS, ids=origin)
    def test_requests_have_the_time_to_end(self, pod: Pod) -> None:
        command = kubernetes.command(pod)
        frontend = frontend_options.parse(command.frontend)
        assert frontend.drain_seconds <= int(triton_options.value(command.triton, "exit-timeout-secs", "30"))
        both = supervise.patience(command.triton) + together._GRACE_SECONDS
        sleep = pod.container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod.spec["terminationGracePeriodSeconds"] >= sleep + both
        # Longer than the pod is ready without being so.
        assert sleep > seconds(pod.container["readinessProbe"])

    @pytest.mark.parametrize("pod", SERVERS, ids=origin)
    def test_probes_ask_the_frontend_whether_a_model_can_be_used(self, pod: Pod) -> None:
        command = kubernetes.command(pod)
        probes = {kind: pod.container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")}
        for probe in probes.values():
            assert probe["httpGet"]["path"] == "/ready"
            assert pod.ports[str(probe["httpGet"]["port"])] == command.port
            # The frontend itself waits five seconds for a model.
            assert probe["timeoutSeconds"] >= 5
        assert f":{command.port}/ready" in image.health_check(ImageOptions(openai_port=command.port))
        assert seconds(probes["startup"]) >= 1800, "as the image's start period"
        assert seconds(probes["liveness"]) > seconds(probes["readiness"])

    @pytest.mark.parametrize("pod", SERVERS, ids=origin)
    def test_ports_are_those_that_the_servers_listen_on(self, pod: Pod) -> None:
        command = kubernetes.command(pod)
        wanted = {"openai": command.port}
        for service, usual in triton_options.PORTS.items():
            wanted[service] = int(triton_options.value(command.triton, f"{service}-port", str(usual)))
        if pod.origin == "kserve":  # the first port, which has no name there, is what KServe serves
            assert pod.ports == {str(command.port): command.port}
            outside = {name for name in wanted if triton_options.address(command.triton, name, "") != "127.0.0.1"}
            assert outside == {"openai", "metrics"}
        else:
            assert pod.ports == wanted

    @pytest.mark.parametrize("pod", SERVERS, ids=origin)
    def test_keys_come_from_a_secret(self, pod: Pod) -> None:
        (path,) = [Path(it["value"]) for it in pod.container["env"] if it["name"] == KEYS_FILE_VARIABLE]
        mount = next(it for it in pod.container["volumeMounts"] if it["mountPath"] == str(path.parent))
        volume = next(it for it in pod.spec["volumes"] if it["name"] == mount["name"])
        assert f"create secret generic {volume['secret']['secretName']} --from-file={path.name}=" in PAGE


class TestHowTheyBelongTogether:
    @pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor", "Deployment"])
    def test_selectors_find_the_pods(self, kind: str) -> None:
        for document in of_kind(kind):
            spec = document["spec"]
            wanted = spec["podSelector"] if "podSelector" in spec else spec["selector"]
            wanted = wanted.get("matchLabels", wanted)
            found = [pod.origin for pod in PODS if wanted.items() <= pod.labels.items()]
            assert found, name(document)

    def test_named_ports_are_the_pods(self) -> None:
        (pod,) = [it for it in SERVERS if it.origin == "vllm-custom"]
        asked = {port["targetPort"] for it in of_kind("Service") for port in it["spec"]["ports"]}
        asked |= {it["port"] for monitor in of_kind("PodMonitor") for it in monitor["spec"]["podMetricsEndpoints"]}
        rules = [rule for it in of_kind("NetworkPolicy") for rule in it["spec"]["ingress"]]
        asked |= {port["port"] for rule in rules for port in rule.get("ports", ())}
        assert asked == set(pod.ports)

    def test_tritons_ports_are_for_pods_with_a_label(self) -> None:
        for policy in of_kind("NetworkPolicy"):
            assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
            for rule in policy["spec"]["ingress"]:
                if not {port["port"] for port in rule.get("ports", ({"port": "http"},))} & {"http", "grpc"}:
                    continue
                assert [set(peer) for peer in rule["from"]] == [{"podSelector"}], "of the same namespace"
        for service in of_kind("Service"):
            open_to_clients = not service["metadata"]["name"].endswith("-kserve")
            ports = {port["targetPort"] for port in service["spec"]["ports"]}
            assert ports == ({"openai"} if open_to_clients else {"http", "grpc"})

    def test_autoscalers_scale_what_is_there_and_one_at_a_time(self) -> None:
        deployments = {it["metadata"]["name"]: it for it in of_kind("Deployment")}
        for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
            (scaler,) = of_kind(kind)
            target = deployments[scaler["spec"]["scaleTargetRef"]["name"]]
            assert "replicas" not in target["spec"], "or each rollout would set it back"
        for path in FOLDER.rglob(KUSTOMIZATION):
            listed = documents(path)[0]
            assert not {"hpa.yaml", "scaledobject.yaml"} <= set(listed["resources"])
            assert "components" not in listed

    def test_the_hpa_asks_for_what_the_adapter_offers(self) -> None:
        (values,) = documents(ADAPTER_VALUES)
        (scaler,) = of_kind("HorizontalPodAutoscaler")
        asked = [metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"]]
        assert asked == [rule["name"]["as"] for rule in values["rules"]["custom"]]
        (scaled,) = of_kind("ScaledObject")
        behaviour = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert behaviour == scaler["spec"]["behavior"]
