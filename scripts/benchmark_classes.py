"""Compare text classifiers: ours, TF-IDF with logistic regression and model2vec's, on the same rows.

Sets: sentiment of sentences of restaurant and product reviews, types of the answers to questions, headlines of news or
clickbait, intents of questions to a bank. Nothing of them was in the texts of the bundled table but headlines and
questions to the bank, without their labels. model2vec's classifier starts from the same table. Seconds are of CPU.

    pip install -e ".[bench,explore]"
    python scripts/benchmark_classes.py --work WORK
"""

import argparse
import csv
import gzip
import io
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from datasets import Dataset
from default_text import Source, lines
from model2vec import StaticModel
from model2vec.train import StaticModelForClassification
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from train_default import fetch
from transformers import pipeline

from gpt_embeddings import export_model
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from gpt_embeddings.training.classification import train_classes
from gpt_embeddings.training.options import ClassesOptions


Rows = list[tuple[str, str]]  # a text and its label
Read = Callable[[str, str, str], list[str]]  # repository, commit and pattern of files to their contents

TRAIN, TEST = 10_000, 4_000  # rows at most
ANSWERS = {"dbo:Person": "person", "dbo:Place": "place", "dbo:Organisation": "organisation", "dbo:Work": "work"}


def restaurants(read: Read) -> Iterator[tuple[str, str]]:
    """Yield sentences of restaurant reviews, lower-case and split into words."""
    for label in "01":
        files = rf"data/yelp/sentiment\.dev\.{label}"
        (text,) = read("shentianxiao/language-style-transfer", "f078a9d342705ea62b04dd3ac5926d3467c2ac63", files)
        yield from ((line, label) for line in text.splitlines())


def reviews(read: Read) -> Iterator[tuple[str, str]]:
    """Yield 3,000 sentences of reviews of phones, films and restaurants."""
    files = r"(amazon_cells|imdb|yelp)_labelled\.txt"
    for text in read("varunchitale/SentimentAnalysis", "0fecb52a8f541be39e6737fccccd0315fed059d9", files):
        for sentence, _, label in (line.rpartition("\t") for line in text.split("\n")):
            if sentence:
                yield sentence.strip(), label


def answers(read: Read) -> Iterator[tuple[str, str]]:
    """Yield questions, and what kind of answer they expect."""
    files = r"datasets/DBpedia/smarttask_dbpedia_train\.json"
    (text,) = read("smart-task/smart-dataset", "5274f25bd8dc340d52d7546f00b5dd7a2373f9e0", files)
    for row in json.loads(text):
        if row["question"]:
            kinds = [ANSWERS[kind] for kind in ANSWERS if kind in row["type"]]
            named = {"boolean": "boolean", "literal": (row["type"] or ["other"])[0]}
            yield row["question"], named.get(row["category"], (kinds or ["other"])[0])


def headlines(read: Read) -> Iterator[tuple[str, str]]:
    """Yield headlines of newspapers and of sites that live from clicks."""
    for name in ("clickbait", "non_clickbait"):
        files = rf"dataset/{name}_data\.gz"
        (text,) = read("bhargaviparanjape/clickbait", "203d979a81545ae6160ff45ffdac83e74469c97a", files)
        yield from ((line.strip(), name) for line in text.splitlines())


def banking(read: Read) -> Iterator[tuple[str, str]]:
    """Yield questions to a bank, by intent."""
    files = r"banking_data/train\.csv"
    (text,) = read("PolyAI-LDN/task-specific-datasets", "57ec275d8078af65b7731c2a98be812d844a6d6b", files)
    yield from ((text, label) for text, label in list(csv.reader(io.StringIO(text)))[1:])


SETS = {
    "restaurants": restaurants,
    "reviews": reviews,
    "kinds of answers": answers,
    "clickbait": headlines,
    "banking": banking,
}


def by_tf_idf(train: Rows, texts: list[str]) -> list[str]:
    """Return labels by scikit-learn's defaults."""
    classifier = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    return list(classifier.fit(*zip(*train, strict=True)).predict(texts))


def by_model2vec(train: Rows, texts: list[str]) -> list[str]:
    """Return labels by model2vec's defaults, from the bundled table."""
    with tempfile.TemporaryDirectory() as folder:
        export_model(*load_model_and_tokenizer(), folder, "model2vec")
        classifier = StaticModelForClassification.from_static_model(model=StaticModel.from_pretrained(folder))
    known, labels = map(list, zip(*train, strict=True))
    return list(classifier.fit(known, labels, device="cpu").predict(texts))


def by_us(train: Rows, texts: list[str], frozen: bool = False) -> list[str]:
    """Return labels by `train classes`, in transformers' pipeline."""
    data = Dataset.from_dict(dict(zip(("text", "label"), zip(*train, strict=True), strict=True)))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "model"
        train_classes(*load_model_and_tokenizer(), data, output, ClassesOptions(frozen=frozen))
        classify = pipeline("text-classification", model=str(output), batch_size=64, truncation=True)
        return [row["label"] for row in classify(texts)]


CONTENDERS: dict[str, Callable[[Rows, list[str]], list[str]]] = {
    "TF-IDF, logistic regression": by_tf_idf,
    "ours, --frozen": lambda train, texts: by_us(train, texts, frozen=True),
    "model2vec": by_model2vec,
    "ours": by_us,
}


def main() -> None:
    """Fetch the sets, train each contender on each, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the repositories")
    parser.add_argument(
        "--repositories", default="https://github.com/{name}", help="where a repository is cloned from"
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    options = parser.parse_args()
    torch.set_num_threads(1)

    def read(name: str, commit: str, files: str) -> list[str]:
        found = fetch(Source(name, commit, files, lines, "", ""), options.work, options.repositories)
        return [(gzip.decompress(data) if files.endswith("gz") else data).decode() for data in found]

    print("| set | classes | rows | classifier | accuracy | macro F1 | seconds |\n|---|---:|---:|---|---:|---:|---:|")
    for name in options.sets:
        rows = sorted(dict(SETS[name](read)).items())
        random.Random(0).shuffle(rows)
        n_test = min(TEST, len(rows) * 3 // 10)
        test, train = rows[:n_test], rows[n_test:][:TRAIN]
        texts, labels = map(list, zip(*test, strict=True))
        for contender, classify in CONTENDERS.items():
            start = time.process_time()
            found = classify(train, texts)
            seconds = time.process_time() - start
            figures = f"{accuracy_score(labels, found):.3f} | {f1_score(labels, found, average='macro'):.3f}"
            sizes = f"{len(set(labels))} | {len(train):,}"
            print(f"| {name} | {sizes} | {contender} | {figures} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
