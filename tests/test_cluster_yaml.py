"""cluster.yaml is what Ray's cluster launcher accepts, and has the three kinds of node that the pipelines use.

Only Ray's own parsing and schema are asked: no cloud is called.
"""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml


@pytest.fixture
def cluster(repository: Path) -> dict[str, Any]:
    return yaml.safe_load((repository / "cluster.yaml").read_text())


def _launcher_accepts(cluster: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    filled = prepare_config(cluster)
    validate_config(filled)
    return filled


def test_the_launcher_accepts_the_file_once_it_has_filled_in_its_defaults(cluster: dict[str, Any]) -> None:
    filled = _launcher_accepts(cluster)
    assert filled["cluster_name"] == "vapdata"


def test_the_launcher_refuses_a_key_it_does_not_know(cluster: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError, match="min_wokers"):
        _launcher_accepts({**cluster, "min_wokers": 3})


def test_there_is_a_cpu_head_that_takes_no_work_and_workers_of_both_kinds(cluster: dict[str, Any]) -> None:
    nodes = cluster["available_node_types"]
    assert cluster["head_node_type"] == "head"
    assert nodes["head"]["resources"] == {"CPU": 0}
    assert set(nodes) == {"head", "scan", "gpu"}
    assert nodes["gpu"]["docker"]["worker_image"].endswith("-gpu")


def test_every_node_gets_the_token_and_starts_ray_with_it(cluster: dict[str, Any]) -> None:
    assert "~/.ray/auth_token" in cluster["file_mounts"]
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token ray start" in cluster[commands][-1]


def test_the_image_has_the_version_of_ray_that_was_tested(cluster: dict[str, Any], repository: Path) -> None:
    pins = dict(line.split("==") for line in (repository / "constraints.txt").read_text().splitlines() if "==" in line)
    images = [cluster["docker"]["head_image"], cluster["docker"]["worker_image"]]
    images += [node["docker"]["worker_image"] for node in cluster["available_node_types"].values() if "docker" in node]
    assert {image.partition(":")[2].partition("-")[0] for image in images} == {pins["ray"]}
