"""The models with a head: losses, gradients and texts of GPT-2 without layers; what libraries expect of them."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from packaging.version import Version
from tiny import new_model
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    pipeline,
)

import modeling_gpt_embeddings
from gpt_embeddings import save_folder
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from modeling_gpt_embeddings import GPTEmbeddingsForCausalLM, GPTEmbeddingsForSequenceClassification


IDS = torch.tensor([[5, 6, 7, 8, 9, 1], [9, 10, 11, 12, 13, 2]])
SIZES = {"vocab_size": 40, "n_positions": 32, "n_embd": 8}
make_model = partial(new_model, GPTEmbeddingsForCausalLM, **SIZES, initializer_range=0.5, embd_pdrop=0.0)
make_classifier = partial(new_model, GPTEmbeddingsForSequenceClassification, initializer_range=0.5)


def gpt2_without_layers(model, kind=GPT2LMHeadModel, **fields):
    fields["tie_word_embeddings"] = model.config.tie_word_embeddings
    gpt2 = kind(GPT2Config(**SIZES, n_layer=0, n_head=1, bos_token_id=None, eos_token_id=None, **fields)).eval()
    gpt2.transformer.ln_f = torch.nn.Identity()
    weights = model.state_dict()
    weights.pop("score.bias", None)  # which GPT-2 lacks
    gpt2.load_state_dict(weights)
    return gpt2


class TestLoss:
    @pytest.mark.parametrize(
        ("tied", "chunk", "num_items"), [(True, 1, None), (False, 3, 7), (True, 100, torch.tensor(7))]
    )
    def test_loss_and_gradients_are_those_of_gpt2(self, monkeypatch, tied, chunk, num_items):
        monkeypatch.setattr(modeling_gpt_embeddings, "LOSS_CHUNK_ENTRIES", 40 * chunk)
        ours = make_model(tie_word_embeddings=tied)
        theirs = gpt2_without_layers(ours)
        labels = IDS.clone()
        labels[0, 2] = labels[1, 5] = -100
        options = {} if num_items is None else {"num_items_in_batch": num_items}
        losses = [model(IDS, labels=labels, **options).loss for model in (ours, theirs)]
        torch.testing.assert_close(*losses)
        gradients = []
        for model, loss in zip((ours, theirs), losses, strict=True):
            (loss * 3).backward()
            gradients.append({name: table.grad for name, table in model.named_parameters()})
        torch.testing.assert_close(*gradients)

    def test_frozen_tables(self):
        model = make_model(tie_word_embeddings=False)
        model.lm_head.weight.requires_grad_(False)
        model(IDS, labels=IDS).loss.backward()
        assert model.lm_head.weight.grad is None and model.transformer.wte.weight.grad.any()
        with torch.no_grad():
            assert not model(IDS, labels=IDS).loss.requires_grad

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_and_autocast(self, dtype):
        model, exact = make_model().to(dtype), make_model()
        losses = [m(IDS, labels=IDS).loss for m in (model, exact)]
        with torch.autocast("cpu", dtype=dtype):
            losses.append(exact(IDS, labels=IDS).loss)
        assert losses[2] != losses[1]
        for loss in losses:
            assert loss.dtype == torch.float32
            torch.testing.assert_close(loss, losses[1], rtol=0.02, atol=0)
        for loss in losses[:2]:
            loss.backward()
        expected = exact.lm_head.weight.grad.clone()
        assert (model.lm_head.weight.grad.dtype, expected.dtype) == (dtype, torch.float32)
        torch.testing.assert_close(model.lm_head.weight.grad.float(), expected, rtol=0.05, atol=0.01)
        losses[2].backward()
        torch.testing.assert_close(exact.lm_head.weight.grad, 2 * expected, rtol=0.05, atol=0.02)

    def test_a_hook_on_the_head_and_a_loss_function_of_the_caller_are_asked(self):
        model = make_model()
        plain = model(IDS, labels=IDS).loss
        seen = []
        model.lm_head.register_forward_hook(lambda module, args, out: seen.append(out.shape))
        loss = model(IDS, labels=IDS).loss
        torch.testing.assert_close(loss, plain)
        loss.backward()
        assert seen and model.lm_head.weight.grad.any()
        model.loss_function = lambda logits, labels, **options: logits.sum() * 0 + len(labels)
        assert model(IDS, labels=IDS).loss == 2

    def test_logits_are_never_whole(self, monkeypatch):
        """No tensor of a training step is as large as the logits of all positions."""
        monkeypatch.setattr(modeling_gpt_embeddings, "LOSS_CHUNK_ENTRIES", 40 * 64)
        ids = torch.randint(40, (16, 32))
        with torch.profiler.profile(profile_memory=True) as profile:
            make_model().train()(ids, labels=ids).loss.backward()
        sizes = [event.nbytes() for event in profile.profiler.kineto_results.events()]
        assert 0 < max(sizes) < ids.numel() * 40 * 4

    def test_bad_labels(self):
        for labels, message in (
            (torch.full((2, 6), 40), "`labels` must lie from 0 to 39 .* got 40"),
            (IDS[:, :5], r"of shape \(2, 6\) like the inputs"),
            (IDS.float(), "int64 or int32"),
        ):
            with pytest.raises(ValueError, match=message):
                make_model()(IDS, labels=labels)

    @settings(max_examples=25, deadline=None)
    @given(labels=st.lists(st.sampled_from([-100, *range(40)]), min_size=12, max_size=12))
    @example(labels=[-100] * 12)
    def test_shift_labels_are_scored_as_they_are(self, labels):
        model, targets = make_model(tie_word_embeddings=False), torch.tensor(labels).view(2, 6)
        logits = model(IDS).logits.view(-1, 40)
        expected = F.cross_entropy(logits, targets.view(-1), reduction="sum")
        torch.testing.assert_close(model(IDS, shift_labels=targets, num_items_in_batch=1).loss, expected)
        # Without a number, the mean of all that have a label; of none, NaN, as in transformers.
        mean = F.cross_entropy(logits, targets.view(-1))
        torch.testing.assert_close(model(IDS, labels=IDS, shift_labels=targets).loss, mean, equal_nan=True)


class TestLogits:
    def test_logits_to_keep(self):
        model = make_model()
        logits = model(IDS).logits
        torch.testing.assert_close(logits, gpt2_without_layers(model)(IDS).logits)
        torch.testing.assert_close(model(IDS, logits_to_keep=2).logits, logits[:, -2:])
        torch.testing.assert_close(model(IDS, logits_to_keep=torch.tensor([0, 3])).logits, logits[:, [0, 3]])
        assert model(IDS, labels=IDS, logits_to_keep=torch.arange(0)).logits.shape == (2, 0, 40)
        both = model(IDS, labels=IDS)
        torch.testing.assert_close(both.logits, logits)
        assert model.train()(IDS, labels=IDS).logits is None
        asked = model(IDS, labels=IDS, logits_to_keep=0)
        torch.testing.assert_close(asked.logits, logits)
        torch.testing.assert_close(both.loss, asked.loss)

    def test_outputs_as_tuple_and_hidden_states(self):
        model = make_model()
        loss, logits, hidden = model(IDS, labels=IDS, logits_to_keep=0, output_hidden_states=True, return_dict=False)
        assert loss.shape == () and logits.shape == (2, 6, 40)
        assert torch.equal(hidden[0], model.transformer(IDS).last_hidden_state)


class TestGenerate:
    def greedy(self, model, ids, **options):
        return model.generate(ids, do_sample=False, max_new_tokens=9, pad_token_id=0, **options)

    @pytest.mark.parametrize(
        ("tied", "kind", "use_cache"),
        [(False, "learned", True), (True, "learned", False), (False, "sinusoidal", False), (False, "none", True)],
    )
    def test_greedy_is_the_arg_max_of_the_last_token(self, tied, kind, use_cache):
        model = make_model(tie_word_embeddings=tied, position_embedding_type=kind)
        ids = IDS
        for _ in range(9):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        assert torch.equal(self.greedy(model, IDS, use_cache=use_cache), ids)
        if kind == "learned":
            assert torch.equal(self.greedy(gpt2_without_layers(model), IDS, use_cache=False), ids)

    @pytest.mark.parametrize("use_cache", [True, False])
    def test_left_padding_changes_nothing(self, use_cache):
        model = make_model(tie_word_embeddings=False)
        padded = F.pad(IDS, (3, 0))
        mask = (torch.arange(9) >= 3).long().expand(2, 9)
        got = self.greedy(model, padded, attention_mask=mask, use_cache=use_cache)
        assert torch.equal(got[:, 3:], self.greedy(model, IDS))

    @pytest.mark.skipif(
        Version(transformers.__version__) < Version("5.5"), reason="generate() repeats given position_ids before 5.5"
    )
    @pytest.mark.parametrize("use_cache", [True, False])
    def test_position_ids_are_continued(self, use_cache):
        model = make_model(tie_word_embeddings=False)
        positions = torch.arange(4, 10).unsqueeze(0).expand(2, 6)
        ids = IDS
        for step in range(9):
            logits = model(ids, position_ids=torch.arange(4, 10 + step).unsqueeze(0)).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
        assert torch.equal(self.greedy(model, IDS, position_ids=positions, use_cache=use_cache), ids)

    def test_a_step_by_hand_with_a_mask_of_the_past(self):
        model = make_model()
        mask = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
        whole = model(IDS, attention_mask=mask).logits[:, -1:]
        torch.testing.assert_close(model(IDS[:, -1:], attention_mask=mask).logits, whole)

    def test_beams_up_to_the_last_position(self):
        model = make_model(tie_word_embeddings=False)
        assert self.greedy(model, IDS, num_beams=3, num_return_sequences=2).shape == (4, 15)
        with pytest.raises(ValueError, match="n_positions"):
            model.generate(IDS, max_new_tokens=40, do_sample=False, pad_token_id=0)


# PEFT asks by a name that transformers has deprecated.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
class TestContract:
    @pytest.mark.parametrize("tied", [True, False])
    def test_resized(self, tied):
        model = make_model(tie_word_embeddings=tied)
        logits = model(IDS).logits
        model.resize_token_embeddings(50)
        assert model(IDS).logits.shape == (2, 6, 50)
        torch.testing.assert_close(model(IDS).logits[..., :40], logits)
        model.resize_position_embeddings(64)
        torch.testing.assert_close(model(IDS).logits[..., :40], logits)
        assert model.get_position_embeddings().weight.shape == (64, 8)

    def test_a_projection_cannot_be_tied(self):
        with pytest.raises(ValueError, match="tie_word_embeddings"):
            make_model(word_embed_proj_dim=4)
        model = make_model(word_embed_proj_dim=4, tie_word_embeddings=False)
        assert model(IDS, labels=IDS).loss > 0

    @pytest.mark.slow
    def test_compiled(self):
        torch._dynamo.reset()
        model = make_model(tie_word_embeddings=False)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        mask, results = (torch.arange(6) >= 1).long().expand(2, 6), []
        for forward in (model, compiled):
            model.zero_grad()
            loss = forward(IDS, attention_mask=mask, labels=IDS).loss
            loss.backward()
            gradients = [table.weight.grad.clone() for table in (model.transformer.wte, model.lm_head)]
            results.append([forward(IDS).logits, loss, *gradients])
        torch.testing.assert_close(*results)

    @pytest.mark.parametrize("tied", [True, False])
    def test_adapters_that_train_single_tokens(self, tied):
        peft = pytest.importorskip("peft")
        plain = make_model(tie_word_embeddings=tied)
        if tied:
            config = peft.TrainableTokensConfig(token_indices=[6, 7], target_modules=["wte"])
        else:
            config = peft.LoraConfig(r=2, target_modules=["lm_head"], trainable_token_indices={"wte": [6, 7]})
        model = peft.get_peft_model(copy.deepcopy(plain), config)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
        losses = []
        for _ in range(4):
            losses.append(model(input_ids=IDS, labels=IDS).loss)
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
        torch.testing.assert_close(losses[0], plain(IDS, labels=IDS).loss)
        assert losses[-1] < losses[0]
        adapted = model(input_ids=IDS).logits
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(IDS).logits, adapted)
        changed = (merged.transformer.wte.weight != plain.transformer.wte.weight).any(1).nonzero().flatten()
        assert changed.tolist() == [6, 7]
        assert torch.equal(merged.lm_head.weight, merged.transformer.wte.weight) == tied
        assert not torch.equal(merged.lm_head.weight, plain.lm_head.weight)


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_model, make_classifier])
def test_accumulated_batches_train_as_one_large_batch(make, tmp_path):
    """`Trainer` averages over batches of unlike numbers of labels."""
    ids, models = torch.arange(96).view(16, 6) % 40, []
    labels = ids[:, 0] % 3 if make is make_classifier else ids.masked_fill(ids < 20, -100)
    rows = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]
    for batch, steps in ((8, 1), (2, 4)):
        arguments = TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            max_steps=2,
            learning_rate=0.05,
            optim="sgd",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        )
        models.append(make(**SIZES, num_labels=3, embd_pdrop=0.0))
        Trainer(models[-1], arguments, train_dataset=rows).train()
    torch.testing.assert_close(*(dict(model.named_parameters()) for model in models))
    assert not torch.equal(models[0].base_model.wte.weight, make(**SIZES, num_labels=3).base_model.wte.weight)


@pytest.mark.parametrize("tied", [True, False])
def test_every_gradient_passes_through_the_reducer_of_ddp(tied, tmp_path):
    """Its hook, which averages over the processes of a group, doubles the gradients here."""

    def double(state, bucket):
        doubled = torch.futures.Future()
        doubled.set_result(bucket.buffer() * 2)
        return doubled

    plain = make_model(tie_word_embeddings=tied)
    plain(IDS, labels=IDS).loss.backward()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = DistributedDataParallel(make_model(tie_word_embeddings=tied))
        model.register_comm_hook(None, double)
        model(IDS, labels=IDS).loss.backward()
    finally:
        torch.distributed.destroy_process_group()
    for ours, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, 2 * expected.grad)


@pytest.mark.parametrize("pooling", ["mean", "weighted"])
def test_classes_are_a_linear_function_of_the_pooled_vector(pooling):
    ids, mask = F.pad(IDS[:, :4], (0, 3)), torch.tensor([[1] * 4 + [0] * 3, [1] * 2 + [0] * 5])
    model = make_classifier(**SIZES, num_labels=3)
    assert not model.score.bias.any()
    torch.nn.init.normal_(model.score.bias)
    if pooling == "weighted":
        model.transformer.set_token_weights(torch.rand(40))
    logits = model(ids, attention_mask=mask).logits
    pooled = model.transformer(ids, attention_mask=mask).pooler_output
    torch.testing.assert_close(logits, pooled @ model.score.weight.T + model.score.bias)
    bags = model.transformer.embed_bags(ids[mask == 1], torch.tensor([0, 4, 6]))
    torch.testing.assert_close(model.score(bags), logits)


def test_the_dropout_of_a_classifier_is_that_of_the_configuration():
    for rates, expected in (({}, 0.1), ({"embd_pdrop": 0.4}, 0.4), ({"classifier_dropout": 0}, 0)):
        assert make_classifier(**SIZES, **rates).dropout.p == expected


@pytest.mark.parametrize(
    ("num_labels", "labels", "problem"),
    [
        (3, torch.tensor([0, 2]), "single_label_classification"),
        (3, torch.tensor([[1.0, 0, 1], [0, 0, 0]]), "multi_label_classification"),
        (1, torch.tensor([0.5, -1]), "regression"),
        (1, torch.tensor([[0.5], [-1]]), "regression"),
        (3, torch.tensor([[0.5, 1, 2], [-1, 1, 1]]), "regression"),
    ],
    ids=["single", "multi", "one number", "one column", "three numbers"],
)
@pytest.mark.parametrize("stated", [False, True])
def test_losses_of_a_classifier_are_those_of_gpt2(num_labels, labels, problem, stated):
    """A GPT-2 without layers whose last token is the only one: its logits, losses and problem types."""
    stated = stated or (num_labels > 1 and problem == "regression")  # else GPT-2 takes them for several labels at once
    fields = {"num_labels": num_labels, **({"problem_type": problem} if stated else {})}
    ours = make_classifier(**SIZES, **fields)
    theirs = gpt2_without_layers(ours, GPT2ForSequenceClassification, pad_token_id=0, **fields)
    got, expected = (model(IDS[:, :1], labels=labels) for model in (ours, theirs))
    torch.testing.assert_close(got.logits, expected.logits)
    torch.testing.assert_close(got.loss, expected.loss)
    assert ours.config.problem_type == theirs.config.problem_type == problem
    for output in (got, expected):
        output.loss.backward()
    torch.testing.assert_close(ours.score.weight.grad, theirs.score.weight.grad)


def test_the_pipeline_gives_probabilities_by_label(small_tokenizer, tmp_path):
    labels = ["ebb", "flood", "slack"]
    model = make_classifier(vocab_size=500, id2label=dict(enumerate(labels)))
    torch.nn.init.normal_(model.score.bias)
    save_folder(tmp_path, model, small_tokenizer)
    assert torch.equal(load_model_and_tokenizer(str(tmp_path))[0].wte.weight, model.transformer.wte.weight)
    assert type(load_model_and_tokenizer(str(tmp_path), None, type(model))[0]) is type(model)
    (scores,) = pipeline("text-classification", model=str(tmp_path), top_k=None)(["the tide came in"])
    expected = model(**small_tokenizer("the tide came in", return_tensors="pt")).logits.softmax(1)[0]
    found = {score["label"]: score["score"] for score in scores}
    assert found == pytest.approx(dict(zip(labels, expected.tolist(), strict=True)))
