"""Kinds of index: parameters, sizes, files made in parts, and the choice by memory."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from calibadv.errors import ConfigError
from calibadv.retrieval.dense import faiss_build as assembling
from calibadv.retrieval.dense.faiss_build import assemble
from calibadv.retrieval.dense.kinds import KINDS, parameters_for
from calibadv.retrieval.dense.sizing import RECALL, parse_size, plan_kind
from calibadv.retrieval.dense.vector_file import VectorFile, VectorWriter

DIMENSION = 32


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """4,000 normalised vectors in 40 clusters."""
    chance = np.random.default_rng(0)
    centres = chance.standard_normal((40, DIMENSION))
    rows = centres[chance.integers(0, 40, 4000)] + 0.4 * chance.standard_normal((4000, DIMENSION))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    path = tmp_path_factory.mktemp("vectors") / "v"
    writer = VectorWriter(path, dtype="float32", dimension=DIMENSION)
    writer.write(rows.astype(np.float32))
    writer.finish()
    return VectorFile.open(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_takes_the_bytes_that_were_planned_for_it(vectors: Any, tmp_path: Path, kind: str) -> None:
    parameters = parameters_for(kind, num_vectors=4000, dimension=DIMENSION)  # type: ignore[arg-type]
    assemble(vectors, parameters=parameters, path=tmp_path / "index")
    assert (tmp_path / "index").stat().st_size == pytest.approx(parameters.num_bytes, rel=0.03, abs=4096)
    index = faiss.read_index(str(tmp_path / "index"), faiss.IO_FLAG_MMAP_IFC)
    assert (index.ntotal, index.d, index.metric_type) == (4000, DIMENSION, faiss.METRIC_INNER_PRODUCT)
    queries = vectors.read(0, 50)
    _, rows = index.search(queries, 10)
    if kind != "ivf-pq":  # coarse: its hits are re-scored
        assert (rows[:, 0] == np.arange(50)).mean() > 0.9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"]


@pytest.mark.parametrize("kind", ["flat", "fp16", "sq8"])
def test_codes_written_in_chunks_are_those_that_faiss_would_write(
    vectors: Any, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembling, "CHUNK_BYTES", 4 * DIMENSION * 777)
    assemble(vectors, parameters=parameters_for(kind, num_vectors=4000, dimension=DIMENSION), path=tmp_path / "ours")  # type: ignore[arg-type]
    theirs = faiss.read_index(str(tmp_path / "ours"))
    theirs.reset()
    theirs.add(vectors.read(0, 4000))
    faiss.write_index(theirs, str(tmp_path / "theirs"))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("kind", ["ivf-sq8", "ivf-pq"])
def test_lists_made_in_parts_are_the_lists_made_at_once(vectors: Any, tmp_path: Path, kind: str) -> None:
    parameters = parameters_for(kind, num_vectors=4000, dimension=DIMENSION)  # type: ignore[arg-type]
    assemble(vectors, parameters=parameters, path=tmp_path / "once")
    assemble(vectors, parameters=parameters, path=tmp_path / "parts", part_bytes=20_000)
    assert (tmp_path / "once").read_bytes() == (tmp_path / "parts").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["once", "parts"]


def test_a_failed_build_leaves_no_file(vectors: Any, tmp_path: Path) -> None:
    class Broken:
        num_vectors, dimension = 4000, DIMENSION

        def read(self, start: Any, stop: Any) -> Any:
            if start:
                raise OSError("the disk is gone")
            return vectors.read(start, 100)

    parameters = parameters_for("ivf-sq8", num_vectors=4000, dimension=DIMENSION)
    with pytest.raises(OSError, match="the disk is gone"):
        assemble(Broken(), parameters=parameters, path=tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def test_parameters_grow_with_the_corpus() -> None:
    small, large = (parameters_for("ivf-pq", num_vectors=n, dimension=768) for n in (20_000, 21_015_324))
    assert (small.nlist, large.nlist) == (256, 16_384)
    assert small.nprobe < large.nprobe < large.nlist
    assert (small.pq_bytes, large.pq_bytes) == (192, 192)
    assert parameters_for("ivf-pq", num_vectors=5000, dimension=33).pq_bytes == 3  # 8 does not divide 33
    assert parameters_for("ivf-sq8", num_vectors=256, dimension=8).nlist == 4


@pytest.mark.parametrize("num_vectors", [20_000, 200_000, 2_000_000])
def test_small_kinds_stay_within_their_share_of_flat(num_vectors: Any) -> None:
    flat = parameters_for("flat", num_vectors=num_vectors, dimension=384).num_bytes
    assert parameters_for("sq8", num_vectors=num_vectors, dimension=384).num_bytes <= 0.27 * flat
    assert parameters_for("ivf-pq", num_vectors=num_vectors, dimension=384).num_bytes <= 0.10 * flat


@pytest.mark.parametrize(
    ("num_documents", "memory", "kind"),
    [
        (40_000, "8GiB", "flat"),
        (40_000, "40MiB", "fp16"),
        (40_000, "20MiB", "sq8"),
        (40_000, "6MiB", "ivf-pq"),
        (21_015_324, "64GiB", "hnsw"),
        (21_015_324, "24GiB", "ivf-sq8"),
        (21_015_324, "8GiB", "ivf-pq"),
    ],
)
def test_memory_decides_the_kind(num_documents: Any, memory: Any, kind: str) -> None:
    dimension = 384 if num_documents < 10**6 else 768
    plan = plan_kind(num_documents, dimension=dimension, memory_bytes=parse_size(memory))
    assert plan.kind == kind
    assert plan.bytes <= parse_size(memory)
    assert plan.expected_recall == RECALL[kind]
    assert f"{RECALL[kind]:.2f}" in plan.why
    assert kind in plan.why


def test_too_little_memory_is_refused_with_the_least_that_would_do() -> None:
    with pytest.raises(ConfigError, match=r"--memory 1\.0 GiB: no kind .* the smallest takes 4\.0 GiB"):
        plan_kind(21_015_324, dimension=768, memory_bytes=1 << 30)
    with pytest.raises(ConfigError, match=r"the smallest takes 9\.4 KiB"):
        plan_kind(100, dimension=96, memory_bytes=1000)


@pytest.mark.parametrize("text", ["", "much", "-1GB", "8 QB", "0", "1e9"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a size such as 8GiB"):
        parse_size(text)
