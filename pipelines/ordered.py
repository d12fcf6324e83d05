"""Planned rows of `videos` to files that a template service made: what `render.py` renders, this orders.

In this process, whatever the cluster: one journal, one budget, one pace; waiting for a service takes no CPU. What was
paid for is kept beside the journal in `media/template_orders` and linked into the catalog's `media/` with its row, so
that a run which was killed in between links it again. Exercised by `pytest tests/pipelines/test_ordered.py`.
"""

import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from catalogs.store import Catalog
from pipelines.record import Record
from pipelines.work import ShardWork
from vapdata.clip import Sampling, path_under
from vapdata.conditions.ordering import Delivered, Outcome
from vapdata.conditions.service import Order
from vapdata.conditions.template import Configuration, ServiceTemplate, Template
from vapdata.decoder import Decoder
from vapdata.errors import CallError

ORDERS = "template_orders"
STEP = "render"
"""As in `failures` for all made videos."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Office:
    """What ordering takes."""

    catalog: Catalog
    media: str
    """Folder of the catalog's made videos."""
    provider: Template
    sampling: Sampling
    """The pictures' size."""
    origin: Callable[[dict[str, Any]], str]
    """From what is known of a source clip to its file."""


def order_all(office: Office, works: Sequence[ShardWork], report: Callable[[int, int], None]) -> Iterator[Record]:
    """The record of each shard, in turn; `report(done, failed)` after every video, counting from the first.

    Raises CallError, after the record that it came up in, when no order can succeed.
    """
    said, templates = office.provider.configuration(), office.provider.programs()
    ordering = office.provider.ordering(os.path.join(office.media, ORDERS))
    decoder = Decoder()
    left = done = failed = 0
    try:
        for work in works:
            record, refused = Record(work=work), None
            orders = _orders(office, templates, decoder, record)
            try:
                for row, outcome in zip([row for row, _ in orders], ordering.fulfil([order for _, order in orders]), strict=True):
                    left += outcome is None
                    _enter(office, said, decoder, record, row, outcome)
                    done, failed = done + (outcome is not None), failed + isinstance(outcome, Exception)
                    report(done, failed)
            except CallError as error:
                refused = error
            yield record
            if refused is not None:
                raise refused
    finally:
        decoder.close()
        spent = ordering.ledger.spent
        ordering.ledger.close()
    log.info("template: %g of %g %s are spent or reserved", spent, office.provider.budget, said.currency)
    if left:
        more = spent + left * said.price
        log.warning("template: %d videos are not ordered, since the budget does not allow it. Type --set template.budget=%g for all", left, more)


def _orders(office: Office, templates: Mapping[str, ServiceTemplate], decoder: Decoder, record: Record) -> list[tuple[dict[str, Any], Order]]:
    """What the shard's rows order; a source that cannot be decoded becomes a row of `failures`."""
    orders = []
    for row in record.work.videos:
        try:
            orders.append((row, _order(office, templates[row["condition"]], decoder, row)))
        except OSError:
            raise  # the disk's trouble
        except Exception as error:  # noqa: BLE001 - one clip's trouble is its own row
            record.fail(STEP, error, video_id=row["video_id"], clip_id=None)
    return orders


def _order(office: Office, template: ServiceTemplate, decoder: Decoder, row: dict[str, Any]) -> Order:
    origin = row["origin"]
    frames = decoder.sample(office.origin(origin), origin["start_s"], origin["end_s"], office.sampling, folder_fps=origin["folder_fps"])
    first = np.ascontiguousarray(frames[0])
    return Order(
        service=template.service,
        condition=template.name,
        version=template.version,
        template=template.template,
        prompt=template.prompt,
        seed=row["seed"],
        image=_png(first),
        image_sha256=hashlib.sha256(repr(first.shape).encode() + first.tobytes()).hexdigest(),
        fields=template.fields,
    )


def _png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "png")
    return data.getvalue()


def _enter(office: Office, said: Configuration, decoder: Decoder, record: Record, row: dict[str, Any], outcome: Outcome) -> None:
    """Adds a delivered video's row, or that of its failure."""
    if outcome is None:
        return
    try:
        if isinstance(outcome, Exception):
            raise outcome
        record.rows["videos"].append(_row(office, said, decoder, row, outcome))
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        record.fail(STEP, error, video_id=row["video_id"], clip_id=None)


def _row(office: Office, said: Configuration, decoder: Decoder, row: dict[str, Any], delivered: Delivered) -> dict[str, Any]:
    """The video's row of `videos`, once its file is in place and decodes."""
    entry = delivered.entry
    digest = hashlib.sha256()
    for frame in decoder.frames(delivered.path):
        digest.update(np.ascontiguousarray(frame.image))
    path = path_under(office.media, row["uri"])
    _link(delivered.path, path)
    license = entry.license or said.license
    told = {"key": entry.key, "job": entry.job, "cost": entry.cost, "price": entry.price, "currency": said.currency, "license": license, "terms": entry.terms or said.terms}
    return {name: value for name, value in row.items() if name != "origin"} | {
        "bytes": os.path.getsize(path),
        "content_sha256": digest.hexdigest(),
        "seconds": decoder.probe(delivered.path).duration_s,
        "license": f"{license}; of the picture: {row['license']}" if row["license"] else license,
        "parameters": json.dumps({**json.loads(row["parameters"]), "order": told}, sort_keys=True),
    }


def _link(kept: str, path: str) -> None:
    """Puts the kept file at `path` too, whole or not at all; a second name for it where the disk can."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = f"{path}.{os.getpid()}.partial"
    try:
        try:
            os.link(kept, partial)
        except OSError:  # no hard links here
            shutil.copyfile(kept, partial)
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
