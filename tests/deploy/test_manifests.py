"""Compose and Kubernetes: every file is what it says it is, and all of them speak of the same things."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from endoscope_server.settings import PREFIX, Settings, resolve

TOP = Path(__file__).parent.parent.parent
DOCKERFILE = (TOP / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((TOP / "compose.yaml").read_text())
MANIFESTS = [
    document
    for path in sorted((TOP / "deploy" / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
BY_KIND = {document["kind"]: document for document in MANIFESTS}
POD = BY_KIND["StatefulSet"]["spec"]["template"]
CONTAINER = POD["spec"]["containers"][0]
PORTS = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}


def _settings(environment: dict[str, str]) -> dict[str, str]:
    return {name.removeprefix(PREFIX).lower(): value for name, value in environment.items() if PREFIX in name}


@pytest.mark.parametrize("path", sorted(TOP.glob("deploy/**/*.y*ml")), ids=str)
def test_every_file_is_yaml(path: Path) -> None:
    assert all(isinstance(document, dict) for document in yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("document", MANIFESTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_kubernetes_knows_every_field(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, "1.33", strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**BY_KIND["StatefulSet"], "sepc": {}}, "1.33", strict=True)


def test_the_configuration_is_one(tmp_path: Path) -> None:
    text = BY_KIND["ConfigMap"]["data"]["endoscope.toml"]
    path = tmp_path / "endoscope.toml"
    path.write_text(text)
    settings = resolve({}, path).settings
    assert settings.grace < POD["spec"]["terminationGracePeriodSeconds"]
    mounts = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    for file in (settings.tokens, settings.tls_certificate, settings.tls_key):
        assert str(file.parent) in mounts
    assert f"{CONTAINER['args'][2]}" == "/etc/endoscope/endoscope.toml"
    assert "/etc/endoscope" in mounts


def test_mounts_have_volumes_and_lie_in_no_other_that_is_read_only() -> None:
    volumes = {volume["name"] for volume in POD["spec"]["volumes"]}
    claims = {claim["metadata"]["name"] for claim in BY_KIND["StatefulSet"]["spec"]["volumeClaimTemplates"]}
    mounts = CONTAINER["volumeMounts"]
    assert {mount["name"] for mount in mounts} == volumes | claims
    for mount in mounts:
        for other in mounts:
            assert not mount["mountPath"].startswith(f"{other['mountPath']}/")
    paths = {mount["name"]: mount["mountPath"] for mount in mounts}
    assert f"ENDOSCOPE_STATE={paths['state']}" in DOCKERFILE
    assert f"ENDOSCOPE_MODELS={paths['models']}" in DOCKERFILE


def test_probes_ask_by_grpc_where_the_server_listens() -> None:
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert CONTAINER[probe]["grpc"] == {"port": PORTS["health"]}
    assert f"ENDOSCOPE_LISTEN=0.0.0.0:{PORTS['grpc']}" in DOCKERFILE
    assert f"ENDOSCOPE_HEALTH_LISTEN=0.0.0.0:{PORTS['health']}" in DOCKERFILE
    assert f"ENDOSCOPE_METRICS_LISTEN=0.0.0.0:{PORTS['metrics']}" in DOCKERFILE
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == str(PORTS["metrics"])


def test_pods_run_as_the_images_user_and_may_do_nothing_else() -> None:
    context = POD["spec"]["securityContext"]
    assert context["runAsNonRoot"]
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}" in DOCKERFILE
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    assert CONTAINER["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not POD["spec"]["automountServiceAccountToken"]
    # Variables such as ENDOSCOPE_PORT would be there otherwise.
    assert POD["spec"]["enableServiceLinks"] is False


def test_everything_selects_the_pods() -> None:
    labels = POD["metadata"]["labels"]
    selectors = [one["spec"]["selector"] for one in MANIFESTS if one["kind"] == "Service"]
    selectors += [
        BY_KIND[kind]["spec"]["selector"]["matchLabels"] for kind in ("StatefulSet", "PodDisruptionBudget")
    ]
    selectors += [BY_KIND["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]]
    assert all(selector.items() <= labels.items() for selector in selectors)
    services = {one["metadata"]["name"]: one for one in MANIFESTS if one["kind"] == "Service"}
    assert services[BY_KIND["StatefulSet"]["spec"]["serviceName"]]["spec"]["clusterIP"] == "None"
    for service in services.values():
        assert all(port["targetPort"] in PORTS for port in service["spec"]["ports"])
    target = BY_KIND["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("StatefulSet", BY_KIND["StatefulSet"]["metadata"]["name"])
    # By its load a pod can be judged only if it says what it asks for.
    assert CONTAINER["resources"]["requests"].keys() == {"cpu", "memory"}
    claimed = POD["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert BY_KIND["PersistentVolumeClaim"]["metadata"]["name"] == claimed


def test_compose_builds_what_there_is_and_lets_in_this_machine_alone() -> None:
    services = COMPOSE["services"]
    assert f"AS {services['server']['build']['target']}\n" in DOCKERFILE
    assert services["server"]["read_only"]
    assert {name for name, service in services.items() if service.get("profiles") == ["monitoring"]} == {
        "prometheus",
        "grafana",
    }
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert ":" in service["image"]
        assert not service["image"].endswith(":latest"), name
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if not source.startswith("./"):
                assert source in COMPOSE["volumes"]
            elif source != "./models":
                assert (TOP / source).exists(), source


def test_compose_gives_settings_that_there_are() -> None:
    server = COMPOSE["services"]["server"]
    settings = _settings(server["environment"])
    assert settings.keys() <= Settings.model_fields.keys()
    assert float(settings["grace"]) < float(server["stop_grace_period"].removesuffix("s"))


def test_prometheus_and_grafana_find_what_they_read() -> None:
    prometheus = yaml.safe_load((TOP / "deploy/prometheus/prometheus.yml").read_text())
    assert prometheus["scrape_configs"][0]["static_configs"] == [{"targets": [f"server:{PORTS['metrics']}"]}]
    provisioning = TOP / "deploy/grafana/provisioning"
    source = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    dashboards = yaml.safe_load((provisioning / "dashboards/endoscope.yaml").read_text())["providers"][0]
    mounts = {
        volume.split(":")[1]: volume.split(":")[0] for volume in COMPOSE["services"]["grafana"]["volumes"]
    }
    assert (TOP / mounts[dashboards["options"]["path"]] / "endoscope.json").is_file()


def test_toml_of_the_manifests_has_no_secret() -> None:
    assert "sha256" not in BY_KIND["ConfigMap"]["data"]["endoscope.toml"]
    assert tomllib.loads(BY_KIND["ConfigMap"]["data"]["endoscope.toml"])["tokens"].startswith("/etc/")
