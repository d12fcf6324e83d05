"""An object store is only another filesystem: the same catalog over a real S3 server on this machine."""

from collections.abc import Iterator

import boto3
import numpy as np
import pytest
from catalog_samples import caption, clip, fill, score, video
from moto.server import ThreadedMotoServer

from catalogs import lock
from catalogs.queries import answer, status
from catalogs.store import Catalog
from catalogs.verify import verify
from vapdata.errors import CallError, CatalogLocked


@pytest.fixture
def uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(lock, "SETTLE_S", 0.05)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(Bucket="bucket")
    yield f"s3://bucket/some/catalog?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    server.stop()


@pytest.mark.slow
def test_a_catalog_lives_in_an_object_store(uri: str) -> None:
    with pytest.raises(CallError, match="no catalog at s3://bucket/some/catalog"):
        Catalog.open(uri)
    catalog = Catalog.open(uri, create=True)
    with catalog.lock("first"):
        with pytest.raises(CatalogLocked, match="in use by 'first'"), Catalog.open(uri).lock("second"):
            pass
        fill(catalog)
        catalog.append({"captions": [caption("a", "new")], "scores": [score("a", "motion", 3.0)], "videos": [video("c")], "clips": [clip("c")]})
        catalog.write_tensors("t5", "d-000000", 7, [("x", b"1")])
        assert catalog.recover().removed == ("tensors/t5/d-000000.7.parquet",)
        before = answer(catalog, "select clip_id, motion from clips_wide order by 1").to_pylist()
        assert before == [{"clip_id": "d/a", "motion": 3.0}, {"clip_id": "d/b", "motion": 6.0}, {"clip_id": "d/c", "motion": None}]
        assert catalog.merge() == ["videos", "clips", "scores", "captions"]
        assert answer(catalog, "select clip_id, motion from clips_wide order by 1").to_pylist() == before
        assert len(catalog.files.names("scores")) == 1
    row = catalog.read("latents").sort_by("clip_id").to_pylist()[0]
    assert np.isfinite(catalog.read_tensor(row, check=True)).all()
    assert status(catalog).clips == 3
    assert [finding.check for finding in verify(catalog)] == ["stale"]
    assert not catalog.files.exists("lock.json")
