# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' manifests and the compose file fit their schemas, each other and the servers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = {
    "serving": ROOT / "docs/serving/kubernetes.yaml",
    "python": ROOT / "docs/python-server/kubernetes.yaml",
}
COMPOSE = ROOT / "docs/compose.yaml"
KUBERNETES = "1.30"
SERVERS = pytest.mark.parametrize("server", sorted(MANIFESTS))


def read(server: str) -> tuple[dict[str, Any], dict[str, Any]]:
    deployment, service = yaml.safe_load_all(MANIFESTS[server].read_text())
    return deployment, service


def container_of(deployment: dict[str, Any]) -> dict[str, Any]:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(container)


def problems(deployment: dict[str, Any], service: dict[str, Any]) -> list[str]:
    """What Kubernetes would take, and what then would not work."""
    found = []
    pod = deployment["spec"]["template"]
    container = container_of(deployment)
    ports = {port["name"] for port in container["ports"]}
    labels = pod["metadata"]["labels"]
    if not deployment["spec"]["selector"]["matchLabels"].items() <= labels.items():
        found.append("the deployment selects other pods")
    if not service["spec"]["selector"].items() <= labels.items():
        found.append("the service selects other pods")
    for port in service["spec"]["ports"]:
        if port["targetPort"] not in ports:
            found.append(f"the service's port {port['targetPort']} is none of the container's")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        (ask,) = (v for k, v in container[probe].items() if k in ("httpGet", "tcpSocket"))
        if ask["port"] not in ports:
            found.append(f"{probe}: no port {ask['port']}")
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    found += [
        f"no volume {mount['name']}"
        for mount in container["volumeMounts"]
        if mount["name"] not in volumes
    ]
    resources = container["resources"]
    if resources["requests"]["memory"] != resources["limits"]["memory"]:
        found.append("standby memory is more than what was requested")
    if "cpu" in resources["limits"]:
        found.append("a limit of CPUs")
    return found


@SERVERS
def test_a_manifest_fits_kubernetes_schemas(server: str) -> None:
    for document in read(server):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


@SERVERS
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "replicas"), "two"),
        (("spec", "selector"), None),
        (("spec", "template", "spec", "containers", 0, "image"), 7),
        (("spec", "template", "spec", "containers", 0, "probes"), {}),
        (("spec", "template", "spec", "containers", 0, "livenessProbe", "tcpSocket"), "http"),
        (("kind",), "Deploiment"),
    ],
)
def test_a_mistake_does_not_fit_the_schema(server: str, path: tuple[Any, ...], value: Any) -> None:
    deployment, _ = read(server)
    wrong: Any = deployment
    for key in path[:-1]:
        wrong = wrong[key]
    if value is None:
        del wrong[path[-1]]
    else:
        wrong[path[-1]] = value
    refused = (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError)
    with pytest.raises(refused):
        kubernetes_validate.validate(deployment, KUBERNETES, strict=True)


@SERVERS
def test_deployment_and_service_fit_each_other(server: str) -> None:
    assert problems(*read(server)) == []


#: What somebody might change in a deployment, its service or its container, and what is said.
MISTAKES: list[tuple[Callable[[Any, Any, Any], None], str]] = [
    (lambda d, s, c: s["spec"].update(selector={"app": "x"}), "the service selects other pods"),
    (
        lambda d, s, c: d["spec"]["selector"]["matchLabels"].update(app="x"),
        "the deployment selects other pods",
    ),
    (
        lambda d, s, c: s["spec"]["ports"][0].update(targetPort="x"),
        "the service's port x is none of the container's",
    ),
    (lambda d, s, c: c["readinessProbe"]["httpGet"].update(port="x"), "readinessProbe: no port x"),
    (lambda d, s, c: c["volumeMounts"][0].update(name="x"), "no volume x"),
    (
        lambda d, s, c: c["resources"]["requests"].update(memory="1Gi"),
        "standby memory is more than what was requested",
    ),
    (lambda d, s, c: c["resources"]["limits"].update(cpu=2), "a limit of CPUs"),
]


@SERVERS
@pytest.mark.parametrize(("change", "expected"), MISTAKES)
def test_what_does_not_fit_is_seen(
    server: str, change: Callable[[Any, Any, Any], None], expected: str
) -> None:
    deployment, service = read(server)
    change(deployment, service, deployment["spec"]["template"]["spec"]["containers"][0])
    assert problems(deployment, service) == [expected]


def test_probes_and_annotations_ask_for_what_the_servers_answer() -> None:
    example = (ROOT / "docs/examples/fastapi_server.py").read_text()
    python, _ = read("python")
    container = container_of(python)
    annotations = python["spec"]["template"]["metadata"]["annotations"]
    for path in (
        container["startupProbe"]["httpGet"]["path"],
        container["readinessProbe"]["httpGet"]["path"],
        annotations["prometheus.io/path"],
    ):
        assert f'@app.get("{path}")' in example
    serving, _ = read("serving")
    container = container_of(serving)
    (model,) = (one["value"] for one in container["env"] if one["name"] == "MODEL_NAME")
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] == f"/v1/models/{model}"
    path = serving["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"]
    assert f'path: "{path}"' in (ROOT / "docs/serving/monitoring.config").read_text()


def test_serving_gets_the_documented_flags_and_files_that_the_image_has() -> None:
    documented = (ROOT / "docs/serving.md").read_text().split("    tensorflow_model_server ")[1]
    documented = documented.split("\n\n")[0]
    arguments = container_of(read("serving")[0])["args"]
    assert arguments == yaml.safe_load(COMPOSE.read_text())["services"]["serving"]["command"]
    image = (ROOT / "docs/serving/Dockerfile").read_text()
    for argument in arguments:
        if "/config/" in argument:
            name = argument.rpartition("/")[2]
            assert f"docs/serving/{name}" in image
            argument = argument.replace("/config/", "docs/serving/")
        assert argument in documented


def check_compose(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", path],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_compose_file_fits_the_specification() -> None:
    done = check_compose(COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"), [("image:", "imagine:"), ("ports: [", "ports: [[],"), ("services:", "x:")]
)
def test_a_mistake_in_the_compose_file_is_seen(right: str, wrong: str, tmp_path: Path) -> None:
    text = COMPOSE.read_text()
    assert right in text
    (tmp_path / "compose.yaml").write_text(text.replace(right, wrong, 1))
    assert check_compose(tmp_path / "compose.yaml").returncode == 1


def test_the_compose_file_builds_the_images_that_kubernetes_runs() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    for server in MANIFESTS:
        build = services[server]["build"]
        assert (COMPOSE.parent / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()
        assert services[server]["image"] == container_of(read(server)[0])["image"]
    watched = yaml.safe_load((ROOT / "docs/monitoring/prometheus.yml").read_text())
    for job in watched["scrape_configs"]:
        ((target,),) = (config["targets"] for config in job["static_configs"])
        name, _, port = target.partition(":")
        assert f"{port}:{port}" in services[name]["ports"]
    assert re.fullmatch(r"prom/prometheus:v\d+\.\d+\.\d+", services["prometheus"]["image"])
