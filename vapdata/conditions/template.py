"""Conditions that a commercial service's image-to-video templates make, and the file that says how it is asked.

    vapdata pairs --catalog catalog --provider template --set template.config=acme.yaml --set template.budget=20

```yaml
service: acme                      # journal and lineage call it so
version: 1                         # raise it (or a condition's) to order again: that is paid again
key_env: ACME_KEY                  # the environment variable with the key; the key itself stands in no file
price: 0.25                        # the most that one video costs; counts until the service states its cost
currency: USD
license: "Acme Terms 2025-01, commercial use"   # for rows of which the service states none
terms: https://acme.example/terms
submit:
  url: https://api.acme.example/v1/jobs
  headers: {Authorization: "Bearer {secret}", Idempotency-Key: "{idempotency_key}"}
  body: {template: "{template}", prompt: "{prompt}", seed: "{seed}", image: "{image_data_url}"}
poll: {url: "https://api.acme.example/v1/jobs/{job}"}
answers: {job: id, status: status, video: outputs.0.url, cost: usage.cost, license: license, terms: terms, message: error.message}
states: {done: [succeeded], failed: [failed, canceled], running: [queued, processing]}
waits: {poll_s: 5, patience_s: 1800, timeout_s: 60, attempts: 6, first_wait_s: 1, longest_wait_s: 120}   # these are the defaults
idempotency: {hours: 24}           # how long one key gives one job; leave it out where the service knows no such keys
conditions:
  - {condition: squish, category: concept, template: squish-it, prompt: "Squish it", sentence: "A hand squishes it like clay."}
```

Placeholders are those of `vapdata/conditions/rest.py`. Exercised by `pytest tests/vapdata/conditions/test_template.py`.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from vapdata.condition import GUESSED, Category, Facts, Member, condition_name
from vapdata.conditions.configured import condition_of, only, read, refuse_twice, stamp_of
from vapdata.conditions.ledger import Ledger
from vapdata.conditions.ordering import Manners, Ordering
from vapdata.conditions.rest import Endpoints, Rest
from vapdata.errors import CallError


@dataclass(frozen=True, kw_only=True)
class ServiceTemplate:
    """One condition that a service's template makes."""

    name: str
    category: Category
    template: str
    sentence: str
    """What happens, for captions."""
    version: int
    service: str
    prompt: str = ""
    fields: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """What its order says besides."""

    def draw(self, seed: int) -> dict[str, Any]:
        """What its lineage says; the seed goes with the order, and the rest is the service's secret."""
        return {"service": self.service, "template": self.template, "prompt": self.prompt, "fields": dict(self.fields)}


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The file, read and checked."""

    service: str
    currency: str
    price: float
    license: str
    terms: str
    endpoints: Endpoints
    waits: Mapping[str, float]
    """Fields of `Manners`."""
    templates: tuple[ServiceTemplate, ...]


@dataclass(frozen=True, kw_only=True)
class Template:
    """Clips that a commercial service's image-to-video templates make.

    What: sends the first frame of some filmed clips to the service that a file describes, one job per condition and
        picture, and builds what comes back like any other dataset, under the name `vap`. Every order is journalled below
        the catalog's `media/template_orders` before it is sent and after, with an idempotency key of (service, condition,
        version, picture), so that a run that was killed anywhere goes on without paying again.
    Reads: files of filmed clips that are as long as the recipe's; captions; the file `config`; the key from the environment.
    Writes: videos of dataset `vap` with parent, seed, service, job, cost, licence and terms; members with score 70.
    Default: budget 0, which orders nothing that costs; per condition four clips of training and one of each other split.
    Cost: what the service takes; at most `budget` for this catalog, over all runs together.
    Fails when: the file or the key is missing, the service refuses the key or charges more than the file says (CallError);
        it refuses a picture or fails on it (a row of `failures`); it does not answer (a row that the next run tries again).
    Source: how Video-As-Prompt's data were made (Bian et al. 2025), as far as it is told.
    """

    name: ClassVar[str] = "template"
    config: str = ""
    """The file: YAML, or JSON."""
    budget: float = 0.0
    """In the file's currency."""
    parallel: int = 4
    """Jobs at once."""
    requests_per_s: float = 2.0
    """Of all kinds together."""
    seed: int = 0
    each: int = 4
    """Training clips per condition; a condition needs four for three references each."""
    each_held_out: int = 1
    """Clips per condition of each other split."""
    sources: int = 64
    """Training clips that all conditions choose from."""
    only: tuple[str, ...] = ()
    """Conditions to order; none named: all."""

    def __post_init__(self) -> None:
        if not self.budget >= 0 or self.parallel < 1 or not self.requests_per_s > 0:  # written so that nan is refused
            raise CallError(f"template: got budget={self.budget} parallel={self.parallel} requests_per_s={self.requests_per_s}; wanted 0 or more, 1 or more, over 0")
        if self.each < 1 or self.each_held_out < 0 or self.sources < self.each:
            raise CallError(f"template: got each={self.each} each_held_out={self.each_held_out} sources={self.sources}; wanted 1, 0 and `each` or more")

    def configuration(self) -> Configuration:
        """The file's contents. Raises CallError for what is wrong in it."""
        if not self.config:
            raise CallError("template: no service is configured. Type --set template.config=FILE (vapdata/conditions/template.py shows one)")
        return _read(self.config, stamp_of(self.config, "a service's configuration. Type --set template.config=FILE"))

    def programs(self) -> Mapping[str, ServiceTemplate]:
        """The templates that are ordered, by condition."""
        found = {each.name: each for each in self.configuration().templates}
        unknown = [name for name in self.only if name not in found]
        if unknown:
            raise CallError(f"template.only: {self.config} has no condition {unknown[0]!r}. It has {', '.join(found)}.")
        return {name: each for name, each in found.items() if not self.only or name in self.only}

    def ordering(self, folder: str) -> Ordering:
        """The service with its journal in `folder`, ready to take orders. Close its `ledger` afterwards."""
        said = self.configuration()
        service = Rest(said.service, said.endpoints)
        manners = Manners(price=said.price, parallel=self.parallel, requests_per_s=self.requests_per_s, **said.waits)
        return Ordering(service, Ledger(folder, said.service, self.budget), manners)

    def reads(self) -> tuple[str, ...]:
        """No scores."""
        return ()

    def members(self, clips: Iterable[Facts]) -> Iterator[Member]:
        """The clips that today's versions of the templates made."""
        programs = self.programs()
        for clip in clips:
            program = programs.get(clip.condition or "") if clip.provider == self.name else None
            if program is not None and clip.version == program.version:
                yield Member(clip_id=clip.clip_id, condition=program.name, category=program.category, score=GUESSED)


_TOP = ("service", "version", "key_env", "price", "currency", "license", "terms", "submit", "poll", "answers", "states", "idempotency", "waits", "conditions")
_NEEDED = ("service", "price", "license", "terms", "submit", "poll", "answers", "states", "conditions")
_WAITS = ("attempts", "first_wait_s", "longest_wait_s", "poll_s", "patience_s")


@functools.lru_cache(maxsize=8)
def _read(path: str, stamp: int) -> Configuration:
    """The file as it was at `stamp`: planning asks once per video."""
    return read(path, lambda said: _configuration(only(said, _TOP, "the file", _NEEDED)), "vapdata/conditions/template.py")


def _configuration(said: Mapping[str, Any]) -> Configuration:
    service = str(said["service"])
    if condition_name(service) != service:
        raise CallError(f"service: got {service!r}, wanted lower-case words with _ between, since files are named after it")
    price = float(said["price"])
    if not 0 <= price < float("inf"):
        raise CallError(f"price: got {price}, wanted the most that one video costs")
    version = int(said.get("version", 1))
    templates = tuple(_template(each, service, version) for each in said["conditions"])
    refuse_twice(each.name for each in templates)
    waits = only(said.get("waits", {}), (*_WAITS, "timeout_s"), "waits")
    return Configuration(
        service=service,
        currency=str(said.get("currency", "")),
        price=price,
        license=str(said["license"]),
        terms=str(said["terms"]),
        endpoints=_endpoints(said, waits),
        waits={name: int(value) if name == "attempts" else float(value) for name, value in waits.items() if name in _WAITS},
        templates=templates,
    )


def _endpoints(said: Mapping[str, Any], waits: Mapping[str, Any]) -> Endpoints:
    submit = only(said["submit"], ("url", "headers", "body"), "submit", ("url", "body"))
    answers = only(said["answers"], ("job", "status", "video", "cost", "license", "terms", "message"), "answers", ("job", "status", "video"))
    states = only(said["states"], ("done", "failed", "running"), "states", ("done", "failed", "running"))
    idempotency = only(said.get("idempotency", {}), ("hours",), "idempotency")
    return Endpoints(
        submit_url=submit["url"],
        poll_url=only(said["poll"], ("url",), "poll", ("url",))["url"],
        headers={str(name): str(text) for name, text in submit.get("headers", {}).items()},
        body=submit["body"],
        key_env=said.get("key_env"),
        repeat_within_s=3600.0 * float(idempotency.get("hours", 0)),
        timeout_s=float(waits.get("timeout_s", 60.0)),
        **answers,
        **{name: tuple(map(str, values)) for name, values in states.items()},
    )


def _template(said: Any, service: str, version: int) -> ServiceTemplate:
    said = only(said, ("condition", "category", "template", "prompt", "sentence", "version", "fields"), "a condition", ("condition", "category", "template", "sentence"))
    name, category = condition_of(said)
    return ServiceTemplate(
        name=name,
        category=category,
        template=str(said["template"]),
        sentence=str(said["sentence"]),
        version=int(said.get("version", version)),
        service=service,
        prompt=str(said.get("prompt", "")),
        fields=said.get("fields", {}),
    )
