"""The format's own consistency."""

import pyarrow as pa

from catalogs.tables import TABLES, TENSOR_TABLES


def test_every_key_column_exists() -> None:
    for table in TABLES.values():
        assert set(table.key) <= {column.name for column in table.columns}


def test_no_column_stands_twice_and_each_says_what_it_means() -> None:
    for table in TABLES.values():
        names = [column.name for column in table.columns]
        assert len(names) == len(set(names))
        assert all(column.doc for column in table.columns)


def test_tensor_tables_say_where_the_bytes_lie() -> None:
    wanted = {"clip_id", "product", "model_id", "revision", "settings_sha256", "dtype", "shape", "file", "row_group"}
    for name in TENSOR_TABLES:
        assert wanted <= {column.name for column in TABLES[name].columns}


def test_schemas_carry_the_format_version_and_nullability() -> None:
    schema = TABLES["clips"].schema
    assert schema.metadata[b"vapdata.format_version"] == b"1"
    assert not schema.field("clip_id").nullable
    assert schema.field("created_at").type == pa.timestamp("us", tz="UTC")
