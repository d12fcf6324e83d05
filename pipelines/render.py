"""Filmed clips to made videos: which program renders which clip, on Ray, into the catalog's `media/`, and into its tables.

One shard is one record, as in a build: a worker decodes the sources of a shard, writes each video whole or not at all,
and the driver commits the shard's rows of `videos`. Killed, the next run removes files that no row names and renders
what has no row; a video's name, shard and pixels depend on the plan alone. Then the made videos are built like any other
dataset. Exercised by `pytest tests/pipelines/test_render.py`.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from catalogs.pairs import FEWEST_REFERENCES, contents_sql
from catalogs.queries import connect
from catalogs.store import Catalog
from pipelines.generated import generate_all
from pipelines.ordered import Office, order_all
from pipelines.prepare import Request as Build
from pipelines.prepare import Show, at_address, build
from pipelines.recipes import Recipe
from pipelines.record import Record, video_of
from pipelines.render_work import RenderStage, media
from pipelines.stages import Job
from pipelines.work import MAX_ATTEMPTS, ShardWork, choose_caption
from vapdata.captioners.made import MadeCaption
from vapdata.clip import BadRow, Caption, Sampling, Video, path_under, quote, video_id
from vapdata.conditions.lora import Lora, LoraCondition
from vapdata.conditions.rendered import Procedural, seed_of, told
from vapdata.conditions.template import Template
from vapdata.errors import CallError, RunError
from vapdata.filters.cuts import Cuts

DATASET = "vap"
SHARD_VIDEOS = 32
NO_CUTS = Cuts(min_rgb=256.0)
"""A made video is one shot, whatever flashes through it: no frame differs by so much."""

log = logging.getLogger(__name__)

Runner = Callable[..., Iterator[Record]]


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What rendering a provider's videos takes."""

    catalog: str
    provider: Procedural | Template | Lora
    recipe: Recipe
    """Its pixel grid is the videos'; its steps are run on them."""
    roots: Mapping[str, str]
    """Where each dataset lies."""
    allowed: Sequence[str] | None
    """Clips that may be sources; None for all."""
    address: str | None = None
    command: str = "vapdata pairs"


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """What came of it. planned = made + failed + to_do."""

    planned: int
    made: int
    failed: int
    to_do: int
    contents: int
    """Filmed contents (split groups) that they are made from."""

    def __str__(self) -> str:
        few = f"; from {self.contents} filmed contents, pairs take {FEWEST_REFERENCES + 1}: clips of one split_group (explain videos) are one content"
        return f"{self.planned} videos = {self.made} made + {self.failed} failed + {self.to_do} to do{few if self.planned and self.contents <= FEWEST_REFERENCES else ''}"


@dataclass(frozen=True, kw_only=True)
class MadeVideos:
    """The made videos of a catalog, as the source that a build reads."""

    root: str
    videos: tuple[Video, ...]
    dataset: str = DATASET
    name: str = "made"

    def list(self) -> Iterator[Video | BadRow]:
        """Every made video."""
        yield from self.videos

    def present(self) -> Mapping[str, int]:
        """`Video.uri` -> bytes of the files that are there."""
        paths = {video.uri: path_under(self.root, video.uri) for video in self.videos}
        return {uri: os.path.getsize(path) for uri, path in paths.items() if os.path.isfile(path)}

    def scores(self) -> Mapping[str, Literal["value", "label"]]:
        """None."""
        return {}


def make(request: Rendering, show: Show | None = None, runner: Runner | None = None) -> Rendered:
    """Renders what the provider wants and the catalog lacks, and builds it. Takes the catalog's lock, twice.

    Raises CallError (an object store, a source's file that is not there), and what `prepare.build` raises.
    """
    catalog = Catalog.open(request.catalog)
    if not catalog.files.local:
        raise CallError(f"{catalog.shown}: videos are rendered into catalogs on this machine's disks only. Render in a local copy, or leave --provider procedural out")
    with catalog.lock(request.command):
        catalog.recover()
        with contextlib.closing(connect(catalog)) as con:
            planned = _plan(con, request)
            remove_strays(catalog, con, request.provider.name, {row["uri"] for row in planned} if isinstance(request.provider, Lora) else set())
            works = _works(con, planned)
        _refuse_absent(request.roots, works)
        _render(catalog, request, works, show, runner)
        with contextlib.closing(connect(catalog)) as con:
            rows = con.sql("select * from videos where parent_clip_id is not null order by video_id").to_arrow_table().to_pylist()
            broken = {row[0] for row in con.execute("select video_id from failures where step = 'render'").fetchall()}
    made = {row["video_id"] for row in rows}
    if rows:
        source = MadeVideos(root=media(catalog), videos=tuple(map(video_of, rows)))
        build(Build(source=source, catalog=request.catalog, recipe=_of_made(request.recipe), address=request.address, command=request.command), show=show, runner=runner)
    wanted = {row["video_id"] for row in planned}
    failed = (wanted & broken) - made
    contents = {row["split_group"] for row in planned}
    return Rendered(planned=len(wanted), made=len(wanted & made), failed=len(failed), to_do=len(wanted - made - failed), contents=len(contents))


def remove_strays(catalog: Catalog, con: Any, provider: str, kept: Collection[str] = ()) -> list[str]:
    """Removes a provider's files that no row of `videos` names: what a killed run left. Returns their paths below media/.

    `kept` are addresses of planned videos whose files, whole or not there as they are, the run takes up again.
    """
    rows = con.execute("select uri from videos where provider = ?", [provider]).fetchall()
    named = {os.path.normpath(path_under("", uri)) for uri in (*(row[0] for row in rows), *kept)}
    removed = []
    for folder, _, files in os.walk(os.path.join(media(catalog), provider), topdown=False):
        for file in files:
            path = os.path.relpath(os.path.join(folder, file), media(catalog))
            if path not in named:
                os.remove(os.path.join(folder, file))
                removed.append(path)
        if not os.listdir(folder):
            os.rmdir(folder)
    return removed


def _of_made(recipe: Recipe) -> Recipe:
    """The recipe as made videos pass it: one shot each, all selected, with the captions that they were given."""
    return dataclasses.replace(recipe, cuts=NO_CUTS, captions=(MadeCaption(),), use_captions=(("made", "vap"), *recipe.use_captions), where="true")


def _plan(con: Any, request: Rendering) -> list[dict[str, Any]]:
    """Every video that there should be, as a row of `videos` with `source`, what is known of the clip that it is made from."""
    provider = request.provider
    sources = _sources(con, request)
    rows = []
    for name, program in sorted(provider.programs().items()):
        ranked = sorted(sources, key=lambda row, name=name: (row["text"] is None, seed_of(provider.seed, name, row["clip_id"])))
        each = {split: [row for row in ranked if row["split"] == split] for split in ("train", "validation", "test")}
        chosen = each["train"][: provider.each] + [row for split in ("validation", "test") for row in each[split][: provider.each_held_out]]
        group = f"{provider.name}/{name}/v{program.version}-s{provider.seed}-{_sampling(request, program).label()}"
        takes = program.takes if isinstance(program, LoraCondition) else 1
        wanted = [(source, take) for source in sorted(chosen, key=lambda row: row["clip_id"]) for take in range(takes)]
        rows += [_row(request, group, source, name, take, place // SHARD_VIDEOS) for place, (source, take) in enumerate(wanted)]
    return rows


def _sampling(request: Rendering, program: Any) -> Sampling:
    """The pixel grid that a program's videos have."""
    return program.sampling(request.recipe.sampling) if isinstance(program, LoraCondition) else request.recipe.sampling


def _row(request: Rendering, group: str, source: dict[str, Any], condition: str, take: int, part: int) -> dict[str, Any]:
    provider, program = request.provider, request.provider.programs()[condition]
    name, sampling = f"{group}/{quote(source['clip_id'])}{f'/{take}' if take else ''}", _sampling(request, program)
    shard = f"{DATASET}-{zlib.crc32(f'{group}/{part}'.encode()):010d}"
    seed = seed_of(provider.seed, condition, f"{source['clip_id']}{f'/{take}' if take else ''}")
    file = f"{condition}-{hashlib.sha256(name.encode()).hexdigest()[:16]}.mp4"
    return {
        "video_id": f"{video_id(DATASET, '')}{name}",
        "dataset": DATASET,
        "source": MadeVideos.name,
        "name": name,
        "uri": f"{provider.name}/{shard}/{file}",
        "shard": shard,
        "label": condition,
        "license": source["license"],
        "split": source["split"],
        "split_group": f"{source['dataset']}/{source['split_group']}",
        "caption": told(source["text"], program.sentence),
        "neutral_caption": source["text"],
        "seconds": sampling.frames / sampling.fps,
        "parent_clip_id": source["clip_id"],
        "condition": condition,
        "provider": provider.name,
        "seed": seed,
        "parameters": json.dumps({"version": program.version, "drawn": program.draw(seed)}, sort_keys=True),
        "origin": source,
    }


def _sources(con: Any, request: Rendering) -> list[dict[str, Any]]:
    """The filmed clips to choose from: one per content, the first of the seed's order, with caption and mask; captioned ones first."""
    allowed = "true" if request.allowed is None else "clips.clip_id in (select unnest($allowed))"
    fit = f"videos.parent_clip_id is null and clips.end_s - clips.start_s > {request.recipe.sampling.seconds - 1e-6!r}"
    told_of = "clips.clip_id in (select clip_id from captions where role <> 'source_parent' and trim(text) <> '')"
    mine = f"not {told_of}, md5_number_lower(concat_ws(chr(31), {request.provider.seed}, clips.clip_id))"
    rows = con.sql(
        f"""
        with fit as (select clips.clip_id from clips join videos using (video_id) where {fit} and {allowed}),
        one as (select clip_id from ({contents_sql("fit")}) as c join clips using (clip_id) qualify row_number() over (partition by content order by {mine}, clip_id) = 1),
        ranked as (select clips.*, row_number() over (partition by split order by {mine}, clip_id) as rank from clips semi join one using (clip_id))
        select ranked.clip_id, ranked.start_s, ranked.end_s, ranked.split, videos.dataset, videos.source, videos.uri, videos.folder_fps, videos.split_group, videos.license
        from ranked join videos using (video_id) where rank <= $most order by ranked.clip_id""",
        params={"most": request.provider.sources, **({} if request.allowed is None else {"allowed": list(request.allowed)})},
    ).to_arrow_table().to_pylist()
    captions = _by_clip(con, "select clip_id, captioner, role, text from captions", rows)
    masks = _by_clip(con, "select clip_id, file, row_group, dtype, shape from masks order by product desc", rows)
    for row in rows:
        texts = [Caption(text=each["text"], captioner=each["captioner"], role=each["role"]) for each in captions.get(row["clip_id"], ())]
        caption = choose_caption(request.recipe, texts)
        row["text"] = caption.text if caption is not None else None
        row["mask"] = masks.get(row["clip_id"], [None])[-1]
    return rows


def _by_clip(con: Any, sql: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    wanted = [row["clip_id"] for row in rows]
    for each in con.sql(f"select * from ({sql}) where clip_id in (select unnest($clips))", params={"clips": wanted}).to_arrow_table().to_pylist():
        found.setdefault(each["clip_id"], []).append(each)
    return found


def _works(con: Any, planned: Sequence[dict[str, Any]]) -> list[ShardWork]:
    """What is planned, has no row and has not failed for good, by shard."""
    over = "select video_id from videos where parent_clip_id is not null union select video_id from failures where step = 'render' "
    done = {row[0] for row in con.execute(f"{over} and (permanent or attempts >= {MAX_ATTEMPTS})").fetchall()}
    works: dict[str, ShardWork] = {}
    for row in planned:
        if row["video_id"] not in done:
            works.setdefault(row["shard"], ShardWork(shard=row["shard"])).videos.append(row)
    return [works[shard] for shard in sorted(works)]


def _refuse_absent(roots: Mapping[str, str], works: Sequence[ShardWork]) -> None:
    """Raises CallError for a dataset none of whose files is there: its root is another."""
    there: dict[str, bool] = {}
    for row in (row for work in works for row in work.videos):
        origin = row["origin"]
        there[origin["dataset"]] = there.get(origin["dataset"], False) or os.path.exists(_path(roots, origin))
    absent = [dataset for dataset, any_there in there.items() if not any_there]
    if absent:
        raise CallError(f"{_root(roots, absent[0])}: no file of dataset {absent[0]!r} is there, and its clips are to be rendered from. Type --root {absent[0]}=PATH")


def _path(roots: Mapping[str, str], origin: Mapping[str, Any]) -> str:
    return path_under(_root(roots, origin["dataset"], origin["source"]), origin["uri"])


def _root(roots: Mapping[str, str], dataset: str, source: str | None = None) -> str:
    return roots.get(dataset, os.path.join("data", source or dataset))


def _render(catalog: Catalog, request: Rendering, works: list[ShardWork], show: Show | None, runner: Runner | None) -> None:
    if not works:
        return
    total = {"render": sum(len(work.videos) for work in works)}
    job = Job(catalog=request.catalog, root="", dataset=DATASET, run_id="", recipe=request.recipe, where="true", select=False, score_kinds={})
    roots = {row["origin"]["dataset"]: os.path.abspath(_root(request.roots, row["origin"]["dataset"], row["origin"]["source"])) for work in works for row in work.videos}
    with contextlib.closing(connect(catalog)) as con:
        tried = dict(con.execute("select video_id, attempts from failures where step = 'render'").fetchall())
    if isinstance(request.provider, Template):
        office = Office(catalog=catalog, media=media(catalog), provider=request.provider, sampling=request.recipe.sampling, origin=lambda origin: _path(roots, origin))
        records = order_all(office, works, lambda done, failed: show(total, {"render": done}, {"render": failed}) if show else None)
    else:

        def run(some: Sequence[ShardWork], stages: Sequence[Any], before: int = 0) -> Iterator[Record]:
            def told(now: Any) -> None:
                if show is not None:
                    show(total, {"render": before + now.done.get("render", 0)}, now.failed)

            return (runner or at_address)(some, stages, address=request.address, on_progress=told)

        if isinstance(request.provider, Lora):
            records = generate_all(request.provider, job, roots, works, run)
        else:
            records = run(works, [RenderStage(job=job, provider=request.provider, roots=roots)])
    for record in records:
        if record.stopped:
            log.warning("shard %s is left for the next run: %s", record.shard, record.stopped)
        for row in record.rows["failures"]:
            row["attempts"] += tried.get(row["video_id"], 0)
        catalog.append({name: rows for name, rows in record.rows.items() if rows})
        if record.fatal:
            raise RunError(f"shard {record.shard} could not be written. {record.stopped}")
