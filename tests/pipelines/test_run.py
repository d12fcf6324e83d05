"""Ray around the stages: shares of the machine, a cluster that is not there, progress."""

import socket

import pytest

from pipelines.prepare import Request, build
from pipelines.recipes import EncodeStage, recipe
from pipelines.run import _shares, quiet_ray
from pipelines.stages import Encode, Job, ScanStage
from pipelines.summary import Summary
from vapdata.errors import RunError

JOB = Job(catalog="c", root="r", dataset="d", run_id="x", recipe=recipe("tiny"), where="true", select=True, score_kinds={})

def test_every_stage_gets_a_share_of_a_machine_with_fewer_cpus_than_they_ask_for(ray_cluster: None) -> None:
    def asking(cpus: float, gpus: float = 0.0) -> Encode:
        return Encode(job=JOB, stage=EncodeStage(name="x", encoders=(), cpus=cpus, gpus=gpus))

    assert _shares([asking(1.0), asking(1.0)]) == [(1.0, 0.0, 2), (1.0, 0.0, 2)]
    crowded = _shares([asking(1.0), asking(2.0, gpus=1.0), asking(1.0)])
    assert sum(cpus for cpus, _, _ in crowded) <= 2.0
    assert all(gpus == 0 for _, gpus, _ in crowded)
    assert all(size >= 1 for _, _, size in crowded)


def test_a_cluster_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nothing else can answer there
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RunError, match=f"no Ray cluster answers at {address}"), quiet_ray(address):
            pass


@pytest.mark.slow
def test_progress_ends_at_the_number_of_clips(ray_cluster: None, synthetic: object, tmp_path: object) -> None:
    seen = []
    request = Request(source=synthetic, catalog=str(tmp_path / "catalog"), recipe=recipe("tiny"), limit=2)
    summary = build(request, show=lambda total, done, failed: seen.append((dict(total), dict(done), dict(failed))))
    assert isinstance(summary, Summary)
    total, done, failed = seen[-1]
    assert done["scan"] == total["scan"] == 2
    assert done["encode"] == total["encode"] == summary.clips["kept"]
    assert sum(failed.values()) == 0


def test_stages_travel_to_workers_by_value(ray_cluster: None) -> None:
    import ray.cloudpickle as cloudpickle

    from pipelines.run import _by_value

    assert cloudpickle.loads(_by_value(ScanStage(job=JOB))) == ScanStage(job=JOB)
