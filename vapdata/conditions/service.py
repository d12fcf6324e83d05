"""What a commercial image-to-video template service must be able to do, and how its troubles are told apart.

A service takes a picture and the name of a template, works for a while, and hands out the address of a video. It costs
money, so the difference between "it was not taken" and "nobody knows whether it was taken" is the whole interface.
Exercised by `pytest tests/vapdata/conditions/test_template.py`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Order:
    """One template on one picture."""

    service: str
    condition: str
    version: int
    """Of the condition in the configuration: raising it orders anew."""
    template: str
    """The service's own name of the template."""
    prompt: str
    seed: int
    image: bytes
    """PNG."""
    image_sha256: str
    """Of the pixels, so that another PNG encoder does not make it another picture."""
    fields: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """What this template's request says besides."""

    @property
    def key(self) -> str:
        """Idempotency key, 32 hex digits: one per (service, condition, version, picture), the same on every run and machine."""
        parts = (self.service, self.condition, str(self.version), self.image_sha256)
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """The service took the order."""

    job: str
    cost: float | None = None
    """What it states to charge; None where it states nothing."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a job stands."""

    state: Literal["running", "done", "failed"]
    url: str | None = None
    """Of the video, once it is done."""
    cost: float | None = None
    license: str | None = None
    terms: str | None = None
    message: str | None = None
    """Why it failed, in the service's words."""


@runtime_checkable
class Service(Protocol):
    """A template service. Called from several threads at once.

    Every method raises TurnedAway or Transient (vapdata/servers.py) for what may pass, ClipError for what concerns this order only
    and stays, CallError when no order can succeed (a wrong key, a wrong address). Nothing it raises may hold a secret.
    """

    @property
    def name(self) -> str:
        """The service, as journal and catalog name it."""
        ...

    @property
    def repeat_within_s(self) -> float:
        """How long a second `submit` with the same `Order.key` gives the first one's job; 0 where it would be paid again."""
        ...

    def submit(self, order: Order) -> Accepted:
        """Places the order. One request: repeating it is the caller's decision.

        TurnedAway: certainly not taken. A plain Transient: nobody knows whether it was. ClipError: it never will be.
        """
        ...

    def poll(self, job: str) -> Status:
        """Where the job stands. Costs nothing."""
        ...

    def download(self, url: str, path: str) -> None:
        """Writes the video to `path`, whole or not at all."""
        ...
