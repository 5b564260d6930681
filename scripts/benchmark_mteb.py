"""Evaluate a model on tasks of MTEB: STS12 to 16, STSBenchmark, SICK-R and four sets of classes.

mteb downloads its data from the Hub. `--pairs FILE` evaluates on pairs of your own instead, as a local STS task: a CSV
file without a header, each row two texts and a score from 0 to 5.

    pip install -e . mteb
    python scripts/benchmark_mteb.py                                   # the English table
    python scripts/benchmark_mteb.py --model FOLDER --tasks STS13 SICK-R
"""

import argparse
from typing import Any

import datasets
import mteb
import numpy as np
import numpy.typing as npt
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder

from gpt_embeddings import Embedder


TASKS = [
    *(f"STS{year}" for year in range(12, 17)),
    "STSBenchmark",
    "SICK-R",
    "AmazonCounterfactualClassification",
    "EmotionClassification",
    "MTOPDomainClassification",
    "TweetSentimentExtractionClassification",
]


class Encoder(AbsEncoder):
    """An embedder with the methods that mteb calls."""

    def __init__(self, embedder: Embedder, name: str) -> None:
        self.embedder = embedder
        self.mteb_model_meta = ModelMeta.create_empty({"name": f"local/{name.replace('/', '_')}", "revision": "local"})

    def encode(self, inputs: Any, **_: Any) -> npt.NDArray[np.float32]:
        """Return the vectors of batches of texts, `(n_texts, n_embd)`."""
        return self.embedder.encode([text for batch in inputs for text in batch["text"]])


class LocalPairs(AbsTaskSTS):
    """Scored pairs of a CSV file."""

    min_score, max_score = 0, 5
    file = ""
    metadata = TaskMetadata(
        name="LocalPairs",
        description="Scored pairs of a local file.",
        dataset={"path": "local", "revision": "local"},
        reference=None,
        type="STS",
        category="t2t",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="cosine_spearman",
    )

    def load_data(self, *_: Any, **__: Any) -> None:
        """Read the file."""
        rows = datasets.Dataset.from_csv(
            self.file, column_names=["sentence1", "sentence2", "score"], keep_in_memory=True
        )
        self.dataset = datasets.DatasetDict({"test": rows})
        self.data_loaded = True


def main() -> None:
    """Evaluate, and print the main score of each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="name of a bundled table, folder or Hub name; by default the English table")
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="names of tasks of MTEB")
    parser.add_argument("--languages", nargs="+", default=["eng"], help="of tasks that have several")
    parser.add_argument("--pairs", help="CSV file to evaluate on instead")
    options = parser.parse_args()

    model = Encoder(Embedder.from_pretrained(options.model), options.model or "gpt-embeddings-english")
    if options.pairs:
        LocalPairs.file = options.pairs
        tasks: Any = [LocalPairs()]
    else:
        tasks = mteb.get_tasks(tasks=options.tasks, languages=options.languages, exclusive_language_filter=True)
    for result in mteb.evaluate(model, tasks, cache=None, co2_tracker=False).task_results:
        print(f"{result.task_name}: {result.get_score():.4f}", flush=True)


if __name__ == "__main__":
    main()
