"""The classifier: its pooled vector, its losses against GPT-2's, and what libraries expect of such a model."""

import pytest
import torch
from datasets import Dataset
from transformers import (
    DataCollatorWithPadding,
    GPT2Config,
    GPT2ForSequenceClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)

from gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsForSequenceClassification, load_tokenizer, save_folder
from gpt_embeddings.checkpoints.loading import load_model


SIZES = {"vocab_size": 40, "n_positions": 16, "n_embd": 8}
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0], [3, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])


def make_model(**fields) -> GPTEmbeddingsForSequenceClassification:
    torch.manual_seed(0)
    config = GPTEmbeddingsConfig(**{**SIZES, "initializer_range": 0.5, "num_labels": 3, **fields})
    return GPTEmbeddingsForSequenceClassification(config).eval()


@pytest.mark.parametrize("pooling", ["mean", "weighted"])
def test_logits_are_a_linear_function_of_the_pooled_vector(pooling):
    model = make_model()
    assert not model.score.bias.any()
    torch.nn.init.normal_(model.score.bias)
    if pooling == "weighted":
        model.transformer.set_token_weights(torch.rand(40))
    logits = model(IDS, attention_mask=MASK).logits
    pooled = model.transformer(IDS, attention_mask=MASK).pooler_output
    torch.testing.assert_close(logits, pooled @ model.score.weight.T + model.score.bias)
    for i, n in enumerate(MASK.sum(1)):  # padding changes nothing
        torch.testing.assert_close(model(IDS[i : i + 1, :n]).logits[0], logits[i])
    bags = model.transformer.embed_bags(IDS[MASK == 1], torch.tensor([0, 4, 6, 7]))
    torch.testing.assert_close(model.score(bags), logits)


def test_dropout():
    for rates, expected in (({}, 0.1), ({"embd_pdrop": 0.4}, 0.4), ({"classifier_dropout": 0}, 0)):
        assert make_model(**rates).dropout.p == expected


@pytest.mark.parametrize(
    ("num_labels", "labels", "problem"),
    [
        (3, torch.tensor([0, 2, 1]), "single_label_classification"),
        (3, torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 1]]), "multi_label_classification"),
        (1, torch.tensor([0.5, -1, 2]), "regression"),
        (1, torch.tensor([[0.5], [-1], [2]]), "regression"),
        (3, torch.tensor([[0.5, 1, 2], [0, 0, 0], [-1, 1, 1]]), "regression"),
    ],
    ids=["single", "multi", "one number", "one column", "three numbers"],
)
@pytest.mark.parametrize("stated", [False, True])
def test_losses_are_those_of_gpt2(num_labels, labels, problem, stated):
    """A GPT-2 without layers whose last token is the only one: its logits, losses and problem types."""
    stated = stated or (num_labels > 1 and problem == "regression")  # else GPT-2 takes them for several labels at once
    fields = {"num_labels": num_labels, **({"problem_type": problem} if stated else {})}
    ours = make_model(**fields)
    theirs = GPT2ForSequenceClassification(GPT2Config(**SIZES, n_layer=0, n_head=1, pad_token_id=0, **fields)).eval()
    theirs.transformer.ln_f = torch.nn.Identity()
    missing = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert missing.missing_keys == [] and missing.unexpected_keys == ["score.bias"]
    got, expected = (model(IDS[:, :1], labels=labels) for model in (ours, theirs))
    torch.testing.assert_close(got.logits, expected.logits)
    torch.testing.assert_close(got.loss, expected.loss)
    assert ours.config.problem_type == theirs.config.problem_type == problem
    for output in (got, expected):
        output.loss.backward()
    torch.testing.assert_close(ours.score.weight.grad, theirs.score.weight.grad)


def test_the_pipeline_gives_probabilities_by_label(tmp_path):
    tokenizer = load_tokenizer()
    labels = {0: "ebb", 1: "flood", 2: "slack"}
    model = make_model(vocab_size=len(tokenizer), id2label=labels, label2id={name: i for i, name in labels.items()})
    torch.nn.init.normal_(model.score.bias)
    save_folder(tmp_path, model, tokenizer)
    assert torch.equal(load_model(str(tmp_path)).wte.weight, model.transformer.wte.weight)
    assert type(load_model(str(tmp_path), type(model))) is type(model)
    texts = ["the tide came in", "ebb"]
    found = pipeline("text-classification", model=str(tmp_path), top_k=None)(texts)
    for text, scores in zip(texts, found, strict=True):
        expected = model(**tokenizer(text, return_tensors="pt")).logits.softmax(1)[0]
        assert {one["label"]: one["score"] for one in scores} == pytest.approx(
            dict(zip(labels.values(), expected.tolist(), strict=True))
        )


@pytest.mark.slow
def test_trainer_with_accumulated_batches(tmp_path):
    """Two batches of one step give the gradient of one batch twice as large, as `Trainer` intends."""
    tokenizer = load_tokenizer()
    rows = Dataset.from_dict({"text": ["low tide", "high tide"] * 4, "label": [0, 1] * 4})
    rows = rows.map(lambda row: tokenizer(row["text"]), remove_columns="text")
    weights = []
    for steps in (1, 4):
        model = make_model(vocab_size=len(tokenizer), num_labels=2, embd_pdrop=0.0)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / str(steps)),
            per_device_train_batch_size=8 // steps,
            gradient_accumulation_steps=steps,
            max_steps=4,
            learning_rate=0.05,
            optim="sgd",
            report_to="none",
            use_cpu=True,
        )
        Trainer(model, arguments, DataCollatorWithPadding(tokenizer), rows).train()
        weights.append(model.score.weight.detach())
    torch.testing.assert_close(*weights)
