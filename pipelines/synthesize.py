"""catalog -> members of conditions -> pairs: what `vapdata pairs` does.

    vapdata pairs --catalog catalog

Each provider says which clips show which condition; its rows of `conditions` and `pairs` are then replaced whole,
in one commit. Exercised by `pytest tests/pipelines/test_synthesize.py`.
"""

import contextlib
import json
import logging
import platform
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from catalogs.newest import literal
from catalogs.queries import connect, selected
from catalogs.store import Catalog
from pipelines.alignment import by_clip
from pipelines.clustering import members_together
from pipelines.pairing import Paired, Pairing, condition_rows, members_table, pair, pair_rows
from pipelines.recipes import RECIPES, recipe
from vapdata.condition import CATEGORIES, Facts, Provider
from vapdata.conditions.clustered import Clustered
from vapdata.errors import CallError, MissingWeights

if TYPE_CHECKING:
    from pipelines.render import Rendered

_CLIPS = 20_000
"""Clips whose facts are held at once."""

log = logging.getLogger(__name__)

Show = Callable[[Mapping[str, int], Mapping[str, int], Mapping[str, int]], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call of `vapdata pairs`."""

    catalog: str
    providers: tuple[Provider, ...]
    pairing: Pairing = field(default_factory=Pairing)
    where: str | None = None
    """Which clips may be members, and sources of made ones: SQL over clips_wide; None for all."""
    recipe: str | None = None
    """What made videos are rendered for and built with; None takes the newest build's."""
    roots: Mapping[str, str] = field(default_factory=dict)
    """Where each dataset lies that videos are made from; others in data/<source>."""
    address: str | None = None
    lenient: bool = False
    """Whether a provider that cannot make its videos here (their sources or weights are elsewhere) is left out, with the reason."""
    command: str = "vapdata pairs"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was found and paired, provider by provider."""

    catalog: str
    paired: tuple[Paired, ...]
    unchanged: tuple[str, ...]
    """Providers whose pairs were these already."""
    rendered: Mapping[str, "Rendered"]
    """What providers that make videos made."""
    left_out: Mapping[str, str]
    """Why providers that could not make their videos were left out."""
    seconds: float

    def lines(self) -> list[str]:
        """The summary as a terminal shows it."""
        lines = []
        for each in self.paired:
            if each.provider in self.rendered:
                lines.append(f"{each.provider:<12}{self.rendered[each.provider]}")
            per_category = ", ".join(f"{category} {each.conditions[category]}" for category in CATEGORIES if category in each.conditions)
            lines.append(
                f"{each.provider:<12}{each.members} members = {each.targets} in pairs + {sum(each.refused.values())} refused; {each.pairs} pairs of "
                f"{sum(each.conditions.values())} conditions{f' ({per_category})' if per_category else ''}{'; as before' if each.provider in self.unchanged else ''}"
            )
            lines += [f"  refused   {count} {reason}: {REASONS[reason]}" for reason, count in each.refused.items()]
            lines += [f"  held out  {', '.join(each.held_out)}"] if each.held_out else []
        lines += [f"{name:<12}left out: {why}" for name, why in self.left_out.items()]
        return [*lines, f"catalog     {self.catalog}", f"next        vapdata conditions --catalog {self.catalog}"]


REASONS = {
    "low_score": "scored under pairs.least_score",
    "copy_is_held_out": "another split holds the same video",
    "over_quota": "beyond pairs.most_members or pairs.most_of_one_content",
    "few_members": "the condition has fewer than pairs.least_members",
    "shows_held_out": "shows a held-out condition too, so no other is learnt from it",
    "few_references": "fewer than 3 members of other content that it may refer to",
}
"""What each word in `conditions.refused` means."""


def synthesize(request: Request, show: Show | None = None, runner: Any = None) -> Summary:
    """Makes or finds members and pairs them, for each provider of the request. `runner` as for `prepare.build`.

    Raises CallError (no catalog, a bad predicate, a dataset that is elsewhere), CatalogLocked, and what a build raises.
    """
    began = time.time()
    run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(began))}-{uuid.uuid4().hex[:8]}"
    catalog = Catalog.open(request.catalog)
    allowed = None if request.where is None else selected(catalog, request.where)
    rendered, left_out = _make_all(catalog, request, allowed, show, runner)
    with catalog.lock(request.command):
        catalog.recover()
        ready = [provider for provider in request.providers if provider.name not in left_out]
        done = [_provide(catalog, provider, request.pairing, allowed, run_id, show) for provider in ready]
        summary = Summary(
            catalog=request.catalog,
            paired=tuple(paired for paired, _ in done),
            unchanged=tuple(paired.provider for paired, changed in done if not changed),
            rendered=rendered,
            left_out=left_out,
            seconds=time.time() - began,
        )
        catalog.append({"runs": [_run_row(request, summary)]}, run_id=run_id)
        catalog.merge()
    return summary


def _make_all(catalog: Catalog, request: Request, allowed: Sequence[str] | None, show: Show | None, runner: Any) -> tuple[dict[str, "Rendered"], dict[str, str]]:
    """What each provider that makes videos made; and why others, where that is allowed, could not."""
    rendered, left_out = {}, {}
    for provider in request.providers:
        if hasattr(provider, "programs"):
            try:
                rendered[provider.name] = _make(catalog, provider, request, allowed, show, runner)
            except (CallError, MissingWeights) as error:
                if not request.lenient:
                    raise
                left_out[provider.name] = str(error)
    return rendered, left_out


def _make(catalog: Catalog, provider: Any, request: Request, allowed: Sequence[str] | None, show: Show | None, runner: Any) -> "Rendered":
    """Renders and builds what a provider makes; `allowed` clips may be sources."""
    from pipelines.render import Rendering, make  # decoders and OpenCV: finding members needs neither

    named = recipe(request.recipe or newest_recipe(catalog))
    roots = {"address": request.address, "command": request.command, "roots": request.roots}
    return make(Rendering(catalog=request.catalog, provider=provider, recipe=named, allowed=allowed, **roots), show, runner)


def newest_recipe(catalog: Catalog) -> str:
    """Name of the recipe that the catalog was last built with. Raises CallError when it is none that has a name."""
    runs = sorted(catalog.read("runs", ["recipe", "created_at"]).to_pylist(), key=lambda row: row["created_at"], reverse=True)
    names = [described["name"] for row in runs if "backbone" in (described := json.loads(row["recipe"] or "{}"))]
    if not names or names[0] not in RECIPES:
        raise CallError(f"{catalog.shown}: videos are rendered for a recipe, and this catalog's last one has {names[0] if names else 'no name'}. Type --recipe NAME")
    return names[0]


def _provide(catalog: Catalog, provider: Provider, settings: Pairing, allowed: Sequence[str] | None, run_id: str, show: Show | None) -> tuple[Paired, bool]:
    """Replaces one provider's conditions and pairs; gives what they are, and whether they are others than before."""
    mine = None if hasattr(provider, "programs") else allowed  # made members are found among made clips, whatever was allowed as a source
    with contextlib.closing(connect(catalog)) as con:
        members = members_together(catalog, con, provider, mine) if isinstance(provider, Clustered) else _members(con, provider, mine, show)
        if settings.alignment == "clip":
            members = by_clip(catalog, con, members, settings.embedding)
        paired = pair(catalog, con, provider.name, members, settings)
        changed = _generations(con, provider.name) != ({paired.generation} if paired.members else set())
        if changed:
            rows = {"conditions": condition_rows(con, paired), "pairs": pair_rows(con, paired)}
            catalog.replace(rows, f"provider <> {literal(provider.name)}", run_id=run_id)
    log.info("%s: %d members, %d pairs%s", provider.name, paired.members, paired.pairs, "" if changed else ", as before")
    return paired, changed


def _generations(con: Any, provider: str) -> set[str | None]:
    return {row[0] for row in con.execute("select distinct generation from conditions where provider = ?", [provider]).fetchall()}


def _members(con: Any, provider: Provider, allowed: Sequence[str] | None, show: Show | None) -> pa.Table:
    """Every membership that the provider sees."""
    total = con.execute("select count(*) from clips").fetchall()[0][0] if allowed is None else len(allowed)
    pieces = [members_table([])]
    done = 0
    for clips in _facts(con, provider.reads(), allowed):
        pieces.append(members_table([asdict(member) for member in provider.members(clips)]))
        done += len(clips)
        if show is not None:
            show({provider.name: total}, {provider.name: done}, {})
    return pa.concat_tables(pieces)


def _facts(con: Any, scores: Sequence[str], allowed: Sequence[str] | None) -> Iterator[list[Facts]]:
    """What is known of the clips that are allowed (None: of all), some thousands at a time."""
    con.register("allowed_clips", pa.table({"clip_id": pa.array(allowed or (), pa.string())}))
    wanted = ", ".join(map(literal, scores)) or "''"
    reader = con.sql(
        f"""
        select clips.clip_id, videos.source, videos.provider, videos.condition, (videos.parameters->>'$.version')::bigint as version, told.text, answers.rows
        from clips join videos using (video_id)
        left join (select clip_id, any_value(text) as text from captions where captioner = 'source' and role = 'source' group by 1) as told using (clip_id)
        left join (select clip_id, list({{'filter': filter, 'value': value, 'label': label}} order by filter, label) as rows
                   from scores where filter in ({wanted}) group by 1) as answers using (clip_id)
        where {"true" if allowed is None else "clips.clip_id in (from allowed_clips)"}"""
    ).to_arrow_reader(_CLIPS)
    for batch in reader:
        yield [_fact(row) for row in batch.to_pylist()]


def _fact(row: Mapping[str, Any]) -> Facts:
    labels: dict[str, tuple[tuple[str, float | None], ...]] = {}
    for each in row["rows"] or ():
        if each["label"] is not None:
            labels[each["filter"]] = (*labels.get(each["filter"], ()), (each["label"], each["value"]))
    return Facts(
        clip_id=row["clip_id"],
        source=row["source"],
        caption=row["text"] or None,
        values={each["filter"]: each["value"] for each in row["rows"] or () if each["label"] is None and each["value"] is not None},
        labels=labels,
        provider=row["provider"],
        condition=row["condition"],
        version=row["version"],
    )


def _run_row(request: Request, summary: Summary) -> dict[str, Any]:
    settings = {"providers": {each.name: repr(each) for each in request.providers}, "pairs": asdict(request.pairing), "where": request.where}
    counts = {
        each.provider: {"planned": each.members, "kept": each.targets, "rejected": sum(each.refused.values()), "failed": 0} for each in summary.paired
    }
    return {
        "command": request.command,
        "recipe": json.dumps(settings, sort_keys=True),
        "counts": json.dumps(counts),
        "seconds": summary.seconds,
        "host": platform.node(),
    }
