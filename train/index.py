"""Resolves what a run reads: clips, products and pairs of a catalog, looked up once, checked, and where their bytes lie.

One DuckDB connection says which clips `--where` selects and which of their products are there and up to date; then every
tensor file's footer is read. What is missing or stale ends the run here, in its first second, with the command that makes it.

What becomes of a clip without some product:
    too short for the video latents, or a step failed on it for good     left out, counted
    no caption: its text is the empty prompt's, which is stored          kept
    no caption, so no masks                                              left out, counted, where masks are read
    nothing of that, or made from a caption that has changed             CallError

With references a sample is a target of `pairs`; only clips in pairs are looked at, on both sides all products and one
latent shape are wanted, and a target with too few references is left out and counted.
Exercised by `pytest tests/train/test_index.py`.
"""

import contextlib
import json
import logging
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from catalogs.newest import literal
from catalogs.progress import MAX_ATTEMPTS
from catalogs.queries import check_predicate, columns_of, connect
from catalogs.store import Catalog, settings_sha256
from catalogs.tables import TEXT_TABLES
from catalogs.tensors import ITEM_BYTES
from train.batch import Reads
from train.cells import DTYPES, remedy
from train.footers import located
from train.products import Grid, Wants, built, settings_of, video_product, wanted_products
from train.samples import CLIPS, CONSTANTS, SAMPLES, Index, Product, Sample
from train.sides import TEXTS
from vapdata.backbones import Backbone
from vapdata.errors import CallError, CatalogDamaged

__all__ = ["Index", "Sample", "build_index"]

log = logging.getLogger("train")

LEFT_OUT = ("too short", "failed", "no caption")
WRONG = ("missing", "stale")
FEW = "too few references"


def build_index(
    catalog: Catalog, facts: Backbone, reads: Reads, *, where: str = "true", product: str | None = None, caption: str | None = None, method: str
) -> Index:
    """The index of a run of `method` on the clips that `where` selects.

    `product` names the video latents where the catalog has several grids of the backbone's, `caption` (captioner/role)
    whose text is read where it has embeddings of several texts of one clip.
    Raises CallError that says what to type when the catalog has not what `reads` names, CatalogDamaged for a tensor
    file that is absent, cut short, or holds other clips than the tables say.
    """
    check_predicate(where, columns_of(catalog))
    with contextlib.closing(connect(catalog)) as connection:
        return _Resolving(catalog, facts, reads, where, caption, method, connection).index(product)


class _Resolving:
    """One call of `build_index`: temporary tables on its connection."""

    def __init__(self, catalog: Catalog, facts: Backbone, reads: Reads, where: str, caption: str | None, method: str, connection: Any) -> None:
        self.catalog, self.facts, self.reads, self.where, self.caption, self.method, self.connection = catalog, facts, reads, where, caption, method, connection
        self.left_out: dict[str, int] = {}

    def index(self, product: str | None) -> Index:
        """Everything, in order."""
        video = video_product(self.catalog, self.facts, dict(self._rows("select product, count(*) from latents where kind = 'video' group by 1")), product)
        grid = Grid.of(self.catalog.settings(video) or {})
        wanted = wanted_products(self.facts, self.reads, video, grid)
        settings = {wants.role: settings_of(self.catalog, wants, grid, self.facts, self.method) for wants in wanted}
        self._choose()
        self._check(wanted, grid)
        products = tuple(self._product(wants, settings[wants.role]) for wants in wanted)
        chosen = self._samples()
        self._number()
        tables = {each.role: self._table(self._cells_sql(each.role)) for each in products}
        cells, files = located(self.catalog, tables, {each.role: ITEM_BYTES[each.dtype] for each in products})
        made = Index(
            catalog=self.catalog.uri,
            backbone=self.facts.name,
            method=self.method,
            where=self.where,
            caption=self.caption,
            reads=self.reads,
            channels=self.facts.vae.latent_channels,
            products=products,
            generation=self._generation(),
            left_out=self.left_out,
            clips=self._table("select clip_id from used order by number").cast(CLIPS),
            chosen=self._numbered(chosen),
            cells=cells,
            files=files,
        )
        self._report(made)
        return made

    # Clips

    def _choose(self) -> None:
        """Table `needed`: the selected clips; with references, those that stand in a pair of two of them."""
        self._do(f"create temp table selected as select clip_id, split, end_s - start_s as seconds from clips_wide where ({self.where}\n)")
        if not self._one("select count(*) from selected"):
            clips = self._one("select count(*) from clips")
            raise CallError(f"--where {self.where!r} selects none of the {clips} clips of {self.catalog.shown}. Type another --where, or none")
        if not self.reads.references:
            self._do("create temp table needed as from selected")
            return
        self._do(
            "create temp table linked as select pairs.* from pairs semi join selected as t on t.clip_id = target_clip_id "
            "semi join selected as r on r.clip_id = reference_clip_id where target_clip_id <> reference_clip_id"
        )
        if not self._one("select count(*) from linked"):
            pairs = self._one("select count(*) from pairs")
            none = f"train.{self.method} learns from pairs, and {self.catalog.shown} has none. Make them"
            apart = f"none of the {pairs} pairs of {self.catalog.shown} has both its clips selected by --where {self.where!r}. Type another --where, or pair again"
            raise CallError(f"{apart if pairs else none}: vapdata pairs --catalog {self.catalog.shown}")
        self._do("create temp table needed as from selected where clip_id in (select target_clip_id from linked union select reference_clip_id from linked)")

    def _check(self, wanted: tuple[Wants, ...], grid: Grid) -> None:
        """Table `usable`: the needed clips that have every product. Raises CallError when one is missing or stale."""
        self._do("create temp table told as select distinct clip_id from captions where role <> 'source_parent' and trim(text) <> ''")
        wrong = []
        for wants in wanted:
            if wants.table == "texts":
                self._check_captions(wants)
            self._do(f"create temp table made_{wants.role} as {self._made_sql(wants)}")
            self._do(f"create temp table fate_{wants.role} as {self._fate_sql(wants, grid)}")
            counts = dict(self._rows(f"select fate, count(*) from fate_{wants.role} group by 1"))
            wrong += [self._wrong(wants, fate, counts[fate]) for fate in WRONG if counts.get(fate)]
        if wrong:
            raise CallError(f"train.{self.method} on {self.facts.name}: {'; '.join(wrong)}. {self._make_it()}")
        if self.reads.keywords and self.reads.text:
            self._check_keywords(next(wants for wants in wanted if wants.role == "keyword_spans"))
        everyone = " union all ".join(f"select clip_id, fate from fate_{wants.role}" for wants in wanted)
        self._do(f"create temp table worst as select clip_id, min(fate) filter (fate <> 'there') as fate from ({everyone}) group by 1")
        self.left_out.update(dict(self._rows("select fate, count(*) from worst where fate is not null group by 1 order by 1")))
        self._do("create temp table usable as select needed.* from needed join worst using (clip_id) where worst.fate is null")

    def _check_captions(self, wants: Wants) -> None:
        """Raises CallError when a clip has embeddings of several texts and none was named, or the one that was named has no rows."""
        counted = (
            f"select captioner || '/' || role as caption, count(*) as clips from {wants.table} where product = {literal(wants.name)} "
            "and clip_id in (select clip_id from needed) group by 1 order by 1"
        )
        there = dict(self._rows(counted))
        listed = ", ".join(f"{name} ({count} clips)" for name, count in there.items())
        if self.caption is not None and self.caption not in there:
            raise CallError(f"run.caption={self.caption}: {wants.name} in {self.catalog.shown} has no text of that captioner and role. It has {listed or 'none'}")
        clips = self._one(f"select count(distinct clip_id) from {wants.table} where product = {literal(wants.name)} and clip_id in (select clip_id from needed)")
        if self.caption is None and sum(there.values()) > clips:
            raise CallError(f"{wants.name} in {self.catalog.shown} has several texts of one clip: {listed}. Type --set run.caption={next(iter(there))}, or another of them")

    def _check_keywords(self, wants: Wants) -> None:
        """Raises CallError when keywords are of another text than the one whose embeddings are read: their spans would be of other words."""
        other = f"from made_{wants.role} as made join made_text as text using (clip_id) where made.text_sha256 is distinct from text.text_sha256"
        if count := self._one(f"select count(*) {other}"):
            found, read = self._rows(f"select made.caption, text.caption {other} limit 1")[0]
            raise CallError(
                f"{wants.name} in {self.catalog.shown}: {count} clips have keywords of {found}, and the embeddings of {read} are read. "
                f"Type --set run.caption={found}, or build the keywords of {read} into a new --catalog"
            )

    def _made_sql(self, wants: Wants) -> str:
        """The row of each needed clip; `fresh` says whether its text still is the caption."""
        texts = wants.table in TEXT_TABLES
        fresh = "captions.text_sha256 is null or made.text_sha256 is not distinct from captions.text_sha256" if texts else "true"
        told = "left join captions on captions.clip_id = made.clip_id and captions.captioner = made.captioner and captions.role = made.role" if texts else ""
        length = "made.length" if wants.table == "texts" else "null"
        text = "made.text_sha256, made.captioner || '/' || made.role as caption" if texts else "null as text_sha256, null as caption"
        only = f"and made.captioner || '/' || made.role = {literal(self.caption)}" if self.caption and wants.table == "texts" else ""
        return (
            f"select made.clip_id, made.file, made.row_group, made.dtype, made.shape, made.settings_sha256, {length}::integer as length, {text}, {fresh} as fresh "
            f"from {wants.table} as made {told} where made.product = {literal(wants.name)} and made.clip_id in (select clip_id from needed) {only}"
        )

    def _fate_sql(self, wants: Wants, grid: Grid) -> str:
        steps = ", ".join(map(literal, {wants.step, wants.name}))
        of_step = f"clip_id is not null and (step in ({steps}) or step like {literal(wants.step + '-%')})"
        failed = f"select clip_id from failures where {of_step} and (permanent or attempts >= {MAX_ATTEMPTS})"
        untold = "when clip_id not in (from told) then 'no caption'" if wants.captioned else ""
        return (
            "select clip_id, case when made.fresh then 'there' when made.clip_id is not null then 'stale' "
            f"when needed.seconds <= {grid.least_seconds!r} then 'too short' when clip_id in ({failed}) then 'failed' {untold} else 'missing' end as fate "
            f"from needed left join made_{wants.role} as made using (clip_id)"
        )

    def _wrong(self, wants: Wants, fate: str, count: int) -> str:
        first, needed = self._one(f"select min(clip_id) from fate_{wants.role} where fate = {literal(fate)}"), self._one("select count(*) from needed")
        what = f"have no {wants.name}" if fate == "missing" else f"have {wants.name} of a caption that has changed since"
        return f"{count} of {needed} clips {what} (first: {first})"

    def _make_it(self) -> str:
        """What makes the missing products: the newest build for this backbone, typed again, and how to do without them."""
        rows = self._rows('select command, recipe, predicate from runs where recipe is not null order by "commit" desc, created_at desc')
        mine = [(command, predicate) for command, recipe, predicate in rows if json.loads(recipe).get("backbone") == self.facts.name]
        command, predicate = mine[0] if mine else (built(self.catalog, self.facts), None)
        apart = f'. The newest build took only clips where {predicate}: type --where "{predicate}" to train on those' if predicate not in (None, "true") else ""
        return f"Make it: {command} (how far it is: vapdata status --catalog {self.catalog.shown}){apart}"

    def _product(self, wants: Wants, settings: Mapping[str, Any]) -> Product:
        """The product as its rows have it. Raises CallError for several settings or dtypes, or a text without its constants."""
        hashes, dtypes, dimensions = self._rows(f"select list(distinct settings_sha256), list(distinct dtype), list(distinct len(shape)) from made_{wants.role}")[0]
        digest = settings_sha256(settings)
        if hashes and hashes != [digest]:
            raise CallError(
                f"{wants.name} in {self.catalog.shown}: its rows were made with {len(hashes)} different settings, or not with those of its settings.json. "
                "Build into a new --catalog; vapdata verify lists the rows"
            )
        if len(dtypes or ()) > 1 or len(dimensions or ()) > 1 or {*(dtypes or ())} - {*DTYPES}:
            got = f"tensors of dtype {dtypes} with {dimensions} dimensions, wanted one kind of {', '.join(DTYPES)}"
            raise CatalogDamaged(f"{wants.name} in {self.catalog.shown}: {got}. {remedy(self.catalog)}")
        if wants.table == "texts":
            self._add_constants(wants)
        padded = {"text": self.facts.text.rows + int(settings.get("image_rows", 0)), "words": settings.get("rows")}
        return Product(role=wants.role, name=wants.name, dtype=dtypes[0] if dtypes else "bf16", settings_sha256=digest, rows=padded.get(wants.role))

    def _add_constants(self, wants: Wants) -> None:
        """Table `constant_ROLE`: the empty and the negative prompt, in the order of CONSTANTS."""
        ranks = " ".join(f"when {literal(name)} then {place}" for place, name in enumerate(CONSTANTS))
        self._do(
            f"create temp table constant_{wants.role} as select case role {ranks} end as place, file, row_group, shape, length::integer as length from texts "
            f"where product = {literal(wants.name)} and clip_id is null and role in ('empty', 'negative')"
        )
        if self._one(f"select count(distinct place) from constant_{wants.role}") != len(CONSTANTS):
            raise CallError(f"{wants.name} in {self.catalog.shown} has no row for the empty or the negative prompt, which caption dropout and guidance need. {self._make_it()}")

    # Samples

    def _samples(self) -> pa.Table:
        """target, split, references, conditions; clips by id."""
        if not self.reads.references:
            self._do("create temp table picked as select clip_id as target, split, []::varchar[] as \"references\", []::varchar[] as conditions from usable")
        else:
            self._do(
                "create temp table found as select target_clip_id as target, linked.split, list_sort(list(distinct reference_clip_id)) as \"references\", "
                "list_sort(list(distinct condition)) as conditions from linked "
                "semi join usable as t on t.clip_id = target_clip_id semi join usable as r on r.clip_id = reference_clip_id "
                "join made_video as tv on tv.clip_id = target_clip_id join made_video as rv on rv.clip_id = reference_clip_id and rv.shape = tv.shape group by 1, 2"
            )
            few = f'len("references") < {self.reads.references}'
            if count := self._one(f"select count(*) from found where {few}"):
                self.left_out[FEW] = count
            self._do(f"create temp table picked as from found where not ({few})")
        table = self._table('select target, split, "references", conditions from picked order by target, split')
        self._check_samples(table)
        return table

    def _check_samples(self, table: pa.Table) -> None:
        splits = table.column("split").to_pylist()
        if "train" in splits:
            return
        left = f" ({self._left()} were left out)" if self.left_out else ""
        got = ", ".join(f"{splits.count(name)} in {name}" for name in sorted({*splits})) or "none at all"
        what = f"--where {self.where!r}: no sample in the split train, {got}{left}"
        raise CallError(f"{what}. Type another --where, or look at the catalog: vapdata status --catalog {self.catalog.shown}")

    def _number(self) -> None:
        """Table `used`: the clips that samples name, numbered in the order of their ids."""
        self._do(
            'create temp table used as select clip_id, (row_number() over (order by clip_id) - 1)::integer as number from '
            '(select target as clip_id from picked union select unnest("references") from picked)'
        )

    def _numbered(self, chosen: pa.Table) -> pa.Table:
        """The samples with clips by number."""
        ids = self._table("select clip_id from used order by number").column("clip_id").combine_chunks()
        lists = chosen.column("references").combine_chunks()
        numbered = pa.ListArray.from_arrays(lists.offsets, pc.index_in(lists.flatten(), ids))
        targets = pc.index_in(chosen.column("target").combine_chunks(), ids)
        return pa.table([targets, chosen.column("split"), numbered, chosen.column("conditions")], names=SAMPLES.names).cast(SAMPLES)

    def _generation(self) -> str | None:
        """Which pairs these are: their generations, several when several providers made them."""
        if not self.reads.references:
            return None
        found = self._rows("select distinct generation from linked where generation is not null order by 1")
        return ",".join(generation for (generation,) in found) or None

    def _cells_sql(self, role: str) -> str:
        columns = "file, row_group, shape, length"
        clips = f"select number as clip, clip_id, {columns} from made_{role} join used using (clip_id)"
        if role in TEXTS:
            clips += f" union all select (select count(*) from used)::integer + place, null, {columns} from constant_{role}"
        return f"select * from ({clips}) order by clip"

    # Saying it

    def _report(self, made: Index) -> None:
        splits = f"{len(made.train)} train, {len(made.validation) if not made.validation_is_train else 0} validation"
        left = f"; left out: {self._left()}" if self.left_out else ""
        log.info("%d samples (%s) of %d clips in %s, %s%s", len(made.samples), splits, len(made.clips), self.catalog.shown, made.product, left)

    def _left(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())

    # DuckDB

    def _do(self, sql: str) -> None:
        self.connection.execute(sql)

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql).fetchall()

    def _one(self, sql: str) -> Any:
        return self._rows(sql)[0][0]

    def _table(self, sql: str) -> pa.Table:
        return self.connection.sql(sql).to_arrow_table()

