"""What the vectors of a dataset are from is said by every output."""

from importlib.metadata import version

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from gpt_embeddings import Embedder, embed_dataset
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from gpt_embeddings.embedding.shards import Provenance, read_provenance
from modeling_gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel


OPTIONS = {"column": "said", "output_column": "v", "pooling": "last", "normalize": True, "dtype": "float16"}


@pytest.fixture(scope="module")
def model():
    return GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=8, n_positions=16))


@pytest.mark.parametrize("name", ["arrow", "vectors.parquet", "folder", "memory"])
def test_every_output_says_it(name, model, gpt2_tokenizer, tmp_path):
    dataset = Dataset.from_dict({"said": ["the tide", "comes in"]})
    options = {**OPTIONS, "format": "parquet" if name == "folder" else None, "model_name": "me/tide"}
    output = None if name == "memory" else tmp_path / name
    embedded = embed_dataset(dataset, model, gpt2_tokenizer, output=output, **options)
    if output is None:
        embedded.save_to_disk(tmp_path / name)
    found = read_provenance(tmp_path / name)
    embedder = Embedder(model, gpt2_tokenizer, **OPTIONS)
    assert found == Provenance(
        model="me/tide",
        weights=found.weights,
        tokenizer=found.tokenizer,
        n_embd=8,
        options={"overflow": "truncate", "truncate_dim": None, "ranges": None, "weights": None, **OPTIONS},
        version=version("gpt-embeddings"),
    )
    assert len(found.tokenizer) == 64
    assert Embedder(model, gpt2_tokenizer, **found.options).digest == embedder.digest
    if name == "arrow":  # what others read of it
        assert load_from_disk(tmp_path / name).info.description == found.to_json()
    elif name == "vectors.parquet":
        assert load_dataset("parquet", data_files=str(tmp_path / name), split="train").features["v"].length == 8


def test_other_weights_have_another_digest(model, gpt2_tokenizer, tmp_path):
    other = GPTEmbeddingsModel(model.config)
    for i, some in enumerate((model, other)):
        splits = DatasetDict({"train": Dataset.from_dict({"text": ["a"]}), "test": Dataset.from_dict({"text": ["b"]})})
        embed_dataset(splits, some, gpt2_tokenizer, output=tmp_path / str(i))
    found = [read_provenance(tmp_path / str(i)) for i in range(2)]
    assert found[0].weights != found[1].weights
    assert found[0].tokenizer == found[1].tokenizer and found[0].model is None


def test_a_loaded_model_is_named_by_where_it_is_from(model, gpt2_tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    saved = GPTEmbeddingsModel.from_pretrained(tmp_path / "saved")
    bundled, tokenizer = load_model_and_tokenizer("gpt-embeddings-portuguese")
    assert Embedder(model, gpt2_tokenizer).provenance().model is None
    assert Embedder(saved, gpt2_tokenizer).provenance().model == str(tmp_path / "saved")
    assert Embedder(bundled, tokenizer).provenance().model == "gpt-embeddings-portuguese"


def test_what_does_not_say_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no dataset"):
        read_provenance(tmp_path / "none")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    Dataset.from_dict({"a": [1]}).save_to_disk(tmp_path / "b")
    (tmp_path / "c").mkdir()
    for name in ("a.parquet", "b", "c"):
        with pytest.raises(ValueError, match="does not say which model its vectors are from"):
            read_provenance(tmp_path / name)
