"""Recall@10 of what can be searched in place of float32 vectors: int8, binary, and indexes of faiss.

    python scripts/benchmark_search.py TEXTS ... [--rows 200000]

TEXTS are files of lines; 200 of them, chosen at random, are the queries. Recall is the share of the ten rows most
similar by float32 that are found. Times are of CPU, one core, all queries in one call.
"""

import argparse
import time
from collections.abc import Callable

import faiss
import numpy as np

from gpt_embeddings import Embedder, load_source
from gpt_embeddings.analysis.similarity import Floats, Rows, top_k
from gpt_embeddings.embedding.quantization import find_ranges, to_binary, to_float32, to_int8


QUERIES, K, RESCORED = 200, 10, 10  # candidates per wanted row that are rescored


def main() -> None:
    """Embed, search in each way, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--rows", type=int, default=200_000)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    texts = sorted(set(load_source(options.texts)["text"]))
    order = np.random.default_rng(0).permutation(len(texts))[: options.rows + QUERIES]
    embedder = Embedder.from_pretrained(normalize=True)
    vectors = embedder.encode([texts[i] for i in order])
    queries, vectors = vectors[-QUERIES:], vectors[:-QUERIES]
    dim, ranges = embedder.dim, find_ranges(vectors)
    bits, steps = to_binary(vectors), to_int8(vectors, ranges)
    hamming = faiss.IndexBinaryFlat(dim)
    hamming.add(np.packbits(vectors > 0, axis=1))
    query_bits = np.packbits(queries > 0, axis=1)
    exact = top_k(queries @ vectors.T, K)[1]

    def rescored() -> Rows:
        found = hamming.search(query_bits, K * RESCORED)[1]
        scores = np.einsum("qd,qnd->qn", queries, vectors[found])
        return np.take_along_axis(found, top_k(scores, K)[1], axis=1)

    def by_index(name: str) -> Callable[[], Rows]:
        start = time.process_time()
        index = faiss.index_factory(dim, name, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[: 64 * lists])
        index.add(vectors)
        faiss.extract_index_ivf(index).nprobe = 32
        print(f"{name}: made in {time.process_time() - start:.0f} s", flush=True)
        return lambda: index.search(queries, K)[1]

    def best(scores: Floats) -> Rows:
        return top_k(scores, K)[1]

    lists = int(len(vectors) ** 0.5)
    ways: dict[str, tuple[int, Callable[[], Rows]]] = {
        "float32": (4 * dim, lambda: best(queries @ vectors.T)),
        "int8": (dim, lambda: best(queries @ to_float32(steps, "int8", dim, ranges).T)),
        "binary, signs with the query's floats": (
            dim // 8,
            lambda: best(queries @ to_float32(bits, "binary", dim, None).T),
        ),
        "binary, Hamming distance": (dim // 8, lambda: hamming.search(query_bits, K)[1]),
        f"binary, {K * RESCORED} by Hamming distance rescored by float32": (dim // 8, rescored),
        f"faiss IVF{lists},SQ8, nprobe 32": (dim + 8, by_index(f"IVF{lists},SQ8")),
    }
    print(f"{len(vectors):,} rows\n\n| vectors | bytes a row | recall@{K} | ms a query |\n|---|---:|---:|---:|")
    for name, (size, find) in ways.items():
        start = time.process_time()
        found = find()
        seconds = time.process_time() - start
        recall = np.mean([len(np.intersect1d(*rows)) for rows in zip(found, exact, strict=True)]) / K
        print(f"| {name} | {size:,} | {recall:.3f} | {1000 * seconds / QUERIES:.1f} |", flush=True)


if __name__ == "__main__":
    main()
