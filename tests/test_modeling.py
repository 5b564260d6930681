"""The arithmetic of the component, against GPT2Model's own first hidden state and formulas written out."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import new_gpt, new_model
from torch import nn
from transformers import AutoModel, GPT2Model

from modeling_gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel


VOCAB, LIMIT, WIDTH = 101, 24, 12
KINDS = ["learned", "sinusoidal", "none"]


def make_model(kind="learned", **options) -> GPTEmbeddingsModel:
    sizes = {"vocab_size": VOCAB, "n_positions": LIMIT, "n_embd": WIDTH, "position_embedding_type": kind}
    return new_model(**{**sizes, **options})


def make_pair(width=WIDTH, limit=LIMIT) -> tuple[GPTEmbeddingsModel, GPT2Model]:
    ours = make_model(n_embd=width, n_positions=limit)
    theirs = new_gpt(GPT2Model, vocab_size=VOCAB, n_positions=limit, n_embd=width)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    return ours, theirs


def random_ids(*shape) -> torch.Tensor:
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(sum(shape)))


def first_hidden_state(model: GPT2Model, **inputs) -> torch.Tensor:
    return model(**inputs, output_hidden_states=True).hidden_states[0]


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "grad"])
def test_positions_in_several_slices_are_gpt2s(grad):
    """Masks, positions and dtypes: tests/checkpoints/test_families.py."""
    ours, theirs = make_pair(width=256)
    inputs = {"input_ids": random_ids(100, 20), "position_ids": torch.randint(0, LIMIT, (100, 20))}
    with torch.set_grad_enabled(grad):  # 512,000 entries: twice the slice
        assert torch.equal(ours(**inputs).last_hidden_state, first_hidden_state(theirs, **inputs))


def test_dropout_and_gradients_are_gpt2s():
    ours, theirs = (model.train() for model in make_pair())
    ids, target, vectors = random_ids(3, 11), torch.randn(3, 11, WIDTH), []
    for forward in (lambda: ours(ids).last_hidden_state, lambda: first_hidden_state(theirs, input_ids=ids)):
        torch.manual_seed(5)
        vectors.append(forward())
        (vectors[-1] * target).sum().backward()
    assert torch.equal(*vectors) and (vectors[0] == 0).any()
    assert torch.equal(ours.wte.weight.grad, theirs.wte.weight.grad)
    assert torch.equal(ours.wpe.weight.grad, theirs.wpe.weight.grad)


MASK_DTYPES = [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float16, torch.float32]
documents = st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=LIMIT), max_size=6)


def pad(docs, random=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad documents on the right or, with random numbers, anywhere."""
    width = max(map(len, docs), default=4)
    ids, mask = torch.zeros(2, len(docs), width, dtype=torch.long)
    for i, doc in enumerate(docs):
        where = sorted(random.sample(range(width), len(doc))) if random else list(range(len(doc)))
        ids[i, where], mask[i, where] = torch.tensor(doc, dtype=torch.long), 1
    return ids, mask


def flat(docs) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0] + [len(doc) for doc in docs])
    return np.array([i for doc in docs for i in doc], dtype=np.int64), offsets


class TestInvariants:
    @pytest.mark.parametrize("kind", KINDS)
    @settings(max_examples=60, deadline=None)
    @given(documents, st.randoms(use_true_random=False), st.sampled_from(MASK_DTYPES))
    def test_padding_and_batch_never_change_a_vector(self, kind, docs, random, dtype):
        model = make_model(kind)
        ids, mask = pad(docs, random)
        mask = mask.to(dtype)
        with torch.no_grad():
            together = model(ids, attention_mask=mask)
            for i, doc in enumerate(docs):
                alone = model(torch.tensor([doc], dtype=torch.long))
                assert torch.equal(together.last_hidden_state[i][mask[i] == 1], alone.last_hidden_state[0])
                assert torch.equal(together.pooler_output[i], alone.pooler_output[0])
            order = torch.randperm(len(docs))
            shuffled = model(ids[order], attention_mask=mask[order])
            assert torch.equal(shuffled.last_hidden_state, together.last_hidden_state[order])
            assert torch.equal(shuffled.pooler_output, together.pooler_output[order])

    @pytest.mark.parametrize("kind", KINDS)
    @settings(max_examples=40, deadline=None)
    @given(docs=documents)
    @example(docs=[])
    def test_bags_are_the_pooled_forward(self, kind, docs):
        model = make_model(kind)
        ids, mask = pad(docs)
        with torch.no_grad():
            expected = model(ids, attention_mask=mask).pooler_output
            got = model.embed_bags(*flat(docs))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7 if kind != "sinusoidal" else 1e-6)
        assert all(not got[i].any() for i, doc in enumerate(docs) if not doc)

    @settings(max_examples=40, deadline=None)
    @given(docs=st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=4 * LIMIT), max_size=5))
    def test_long_documents(self, docs):
        model = make_model()
        wte, wpe = model.wte.weight.detach().double(), model.wpe.weight.detach().double()
        with torch.no_grad():
            cut = model.embed_bags(*flat(docs))
            windows = model.embed_bags(*flat(docs), overflow="windows")
        for i, doc in enumerate(docs):
            for got, tokens in ((cut[i], doc[:LIMIT]), (windows[i], doc)):
                rows = [wte[token] + wpe[place % LIMIT] for place, token in enumerate(tokens)]
                expected = torch.stack(rows).mean(0) if rows else torch.zeros(WIDTH)
                torch.testing.assert_close(got, expected.float(), rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize(
        ("shape", "dtype"), [((3, 700, 97), torch.float32), ((1, 1, 1), torch.float32), ((3, 70, 97), torch.bfloat16)]
    )
    def test_a_mean_without_a_mask_is_the_mean_with_one(self, shape, dtype):
        batch, length, width = shape
        model = make_model(n_positions=length + 1, n_embd=width).to(dtype)
        ids = random_ids(batch, length + 1)
        mask = torch.ones_like(ids)
        mask[:, -1] = 0
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                expected = model(ids, attention_mask=mask).pooler_output
                assert torch.equal(model(ids[:, :-1]).pooler_output, expected)
                assert torch.equal(model(ids[:, :-1], attention_mask=mask[:, :-1]).pooler_output, expected)

    @pytest.mark.parametrize(("dtype", "value"), [(torch.bfloat16, 1.0), (torch.float16, 100.0)])
    def test_pooling_in_half_precision_sums_in_single(self, dtype, value):
        """A running sum would stop at 256 in bfloat16, and be infinite from 65,520 on in float16."""
        model = make_model(n_positions=1000).to(dtype)
        with torch.no_grad():
            model.wte.weight.fill_(value)
            model.wpe.weight.zero_()
            pooled = model(torch.zeros(1, 1000, dtype=torch.long)).pooler_output
            bags = model.embed_bags([0] * 1001, [0, 0, 1000, 1001])
        assert pooled.dtype == bags.dtype == dtype
        assert pooled.eq(value).all() and bags[1:].eq(value).all() and bags[0].eq(0).all()


class TestInPlace:
    """The positions are added into the tensor that `wte` made, but never into one that somebody else can see."""

    def test_no_second_tensor_of_full_size(self):
        model = make_model(n_positions=512, n_embd=64)
        ids = random_ids(16, 512)
        full = 16 * 512 * 64 * 4
        for options in ({}, {"attention_mask": (torch.arange(512) >= 3).long().expand(16, 512)}):
            with torch.inference_mode(), torch.profiler.profile(profile_memory=True) as profile:
                model(ids, **options)
            sizes = [event.nbytes for event in profile.profiler.kineto_results.events() if event.nbytes() > 0]
            assert sum(size() >= full for size in sizes) == 1

    @pytest.mark.parametrize("name", ["wte", "wpe", "drop"])
    def test_what_is_changed_is_called(self, name):
        ids, kept = random_ids(2, 5), []
        for change in (
            lambda module: module.register_forward_hook(lambda module, inputs, output: output + 1),
            lambda module: setattr(module, "forward", lambda inputs, plain=module.forward: plain(inputs) + 1),
        ):
            model = make_model()
            with torch.no_grad():
                expected = model(ids).last_hidden_state + 1
                change(getattr(model, name))
                torch.testing.assert_close(model(ids).last_hidden_state, expected)
        model = make_model()
        model.wte.register_forward_hook(lambda module, inputs, output: kept.append(output))
        with torch.no_grad():
            model(ids)
        assert torch.equal(kept[0], model.wte.weight[ids])  # the token part, as nothing was added into it
        model.drop.train()  # of a model in evaluation
        assert (model(ids).last_hidden_state == 0).any()

    def test_a_wrapped_table_is_called(self):
        class Doubled(nn.Module):
            def __init__(self, table):
                super().__init__()
                self.table, self.weight = table, table.weight

            def forward(self, ids):
                return 2 * self.table(ids)

        model, docs = make_model(), [[1, 2, 3], [4]]
        model.wte = Doubled(model.wte)
        ids, mask = pad(docs)
        with torch.no_grad():
            expected = model(ids, attention_mask=mask).pooler_output
            torch.testing.assert_close(model.embed_bags(*flat(docs)), expected)


class TestBags:
    def test_integer_dtypes_and_offsets_within_the_array(self):
        model = make_model()
        ids, offsets = flat([[9, 9], [1, 2, 3], [100], [8]])
        expected = model.embed_bags(ids, offsets)
        for dtype in (np.int32, np.uint32, np.uint16, np.uint8):
            assert torch.equal(model.embed_bags(ids.astype(dtype), offsets.astype(dtype)), expected)
        assert torch.equal(model.embed_bags(ids, offsets[1:4]), model.embed_bags(ids, offsets)[1:3])

    # Widths of whole words and others.
    @pytest.mark.parametrize(
        ("mode", "width"), [(torch.inference_mode, WIDTH), (torch.no_grad, 3), (torch.enable_grad, WIDTH)]
    )
    def test_kept_sums_of_positions_follow_every_change(self, mode, width):
        model = make_model(n_embd=width)
        docs = [[1, 2], list(range(LIMIT)), [3]]

        def check():
            ids, mask = pad(docs)
            with mode():
                expected = model(ids, attention_mask=mask).pooler_output
                for same in (model, model, copy.deepcopy(model)):
                    torch.testing.assert_close(same.embed_bags(*flat(docs)), expected, rtol=1e-5, atol=1e-7)

        with torch.inference_mode():
            model.embed_bags(*flat(docs[:1]))  # kept for short texts, and of that mode
        check()
        model.wpe.weight.data[LIMIT - 1, width - 1] += 1  # which torch does not count as a change
        check()
        model.wpe.weight.detach().numpy()[0, 0] = -0.0
        check()
        model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()})
        check()
        model.resize_position_embeddings(LIMIT + 4)
        check()
        model.double()
        check()
        model.wpe.weight.data[1] = float("nan")
        assert model.embed_bags(*flat([[1, 2]])).isnan().all()

    @pytest.mark.parametrize("overflow", ["truncate", "windows"])
    def test_gradients_are_those_of_the_forward(self, overflow):
        docs = [[1, 2, 3, 2], [4], [], [5] * LIMIT]
        target = torch.randn(len(docs), WIDTH)
        grads = []
        for pooled in (
            lambda model: model.embed_bags(*flat(docs), overflow=overflow),
            lambda model: model(*pad(docs)).pooler_output,
        ):
            model = make_model()
            with torch.no_grad():
                pooled(model)  # the sums of positions that are kept from here on do not stand in for a gradient
            (pooled(model) * target).sum().backward()
            grads.append((model.wte.weight.grad, model.wpe.weight.grad))
        torch.testing.assert_close(grads[0], grads[1])

    @pytest.mark.parametrize(
        ("ids", "offsets", "message"),
        [
            ([1, VOCAB], [0, 2], r"`input_ids` must lie from 0 to 100 \(`vocab_size` is 101\), got 101"),
            ([1, -7], [0, 2], r"`input_ids` must lie from 0 to 100 .* got -7"),
            ([1, 2], [0, 3], "`offsets` must not decrease and must lie from 0 to the number of ids, 2"),
            ([1, 2], [-1, 2], "they begin with -1"),
            (np.arange(10), [0, 2**63 - 1, -2, 3], "`offsets` must not decrease"),  # the differences wrap
            ([1, 2], [], "n_documents"),
            ([[1, 2]], [0, 2], r"`input_ids` must be a flat array of integers, got torch.int64 of shape \(1, 2\)"),
            ([1.0, 2.0], [0, 2], "`input_ids` must be a flat array of integers, got torch.float32"),
            ([1, 2], [0.0, 2.0], "`offsets` must be a flat array of integers"),
            (np.array([2**32 - 1], dtype=np.uint32), [0, 1], "`input_ids` must lie from 0 to 100"),
        ],
    )
    def test_errors(self, ids, offsets, message):
        with pytest.raises(ValueError, match=message):
            make_model().embed_bags(ids, torch.tensor(offsets, dtype=None if offsets else torch.long))
        with pytest.raises(ValueError, match="`overflow` must be 'truncate' or 'windows', got 'wrap'"):
            make_model().embed_bags([1], [0, 1], overflow="wrap")


class TestBadInput:
    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({}, "either `input_ids` or `inputs_embeds`, got neither"),
            ({"input_ids": random_ids(1, 2), "inputs_embeds": torch.zeros(1, 2, WIDTH)}, "got both"),
            ({"input_ids": random_ids(1, 25)}, "sequence of 25 tokens is longer than `n_positions` = 24"),
            ({"input_ids": random_ids(4)}, r"int64 or int32 of shape \(batch, position\), got torch.int64 .*\(4,\)"),
            ({"input_ids": torch.zeros(1, 2)}, "got torch.float32"),
            ({"input_ids": "Hello"}, "`input_ids` must be a tensor, got str.*tokenizer"),
            ({"inputs_embeds": torch.zeros(1, 2, WIDTH + 1)}, r"n_embd=12\), got torch.float32 of shape \(1, 2, 13\)"),
            ({"inputs_embeds": torch.zeros(1, 2, WIDTH, dtype=torch.long)}, "must be floating-point"),
            ({"attention_mask": torch.ones(1, 3)}, r"shape \(1, 2\) like the inputs, got .* of shape \(1, 3\)"),
            ({"attention_mask": torch.tensor([[0.0, -math.inf]])}, "additive mask"),
            ({"attention_mask": torch.tensor([[1, 2]])}, "1 .or True. for real tokens"),
            ({"position_ids": torch.tensor([[0, LIMIT]])}, r"`position_ids` must lie from 0 to 23 .*got 24"),
            ({"position_ids": torch.zeros(2, 2, dtype=torch.long)}, r"must be int64 or int32 of shape \(1, 2\)"),
            ({"position_ids": torch.zeros(1, 2)}, "`position_ids` must be int64 or int32 .*, got torch.float32"),
        ],
    )
    def test_message(self, inputs, message):
        if not {"input_ids", "inputs_embeds"} & inputs.keys() and inputs:
            inputs = {"input_ids": random_ids(1, 2), **inputs}
        for kind in ("learned", "sinusoidal"):
            with pytest.raises((TypeError, ValueError), match=message):
                make_model(kind)(**inputs)

    @pytest.mark.parametrize("grad", [False, True], ids=["inference", "grad"])
    def test_a_bad_id_is_named(self, grad):
        for bad, dtype in ((VOCAB, torch.float32), (-1, torch.bfloat16), (-(2**31), torch.float16)):
            model = make_model().to(dtype)
            for ids_dtype in (torch.int64, torch.int32):
                ids = random_ids(3, 20).to(ids_dtype)
                ids[2, 17] = bad
                with torch.set_grad_enabled(grad), pytest.raises(ValueError, match=rf"from 0 to 100 .* got {bad}\."):
                    model(ids)
        with pytest.raises(IndexError):
            make_model()(torch.tensor([[VOCAB]]), check_ids=False)

    def test_fields_set_after_the_configuration_was_made(self):
        config = GPTEmbeddingsConfig()
        config.n_positions = 10**12
        with pytest.raises(ValueError, match="`n_positions` must be an integer from 1 to 16777216, got 1000000000000"):
            GPTEmbeddingsModel(config)


@pytest.mark.parametrize("positions", [None, 0.01], ids=["as the tokens", "as in openai's gpt-2"])
def test_fresh_rows_have_the_standard_deviations_of_the_configuration(positions):
    model = make_model(vocab_size=5000, n_positions=5000, n_embd=64, position_initializer_range=positions)
    assert model.wte.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert model.wpe.weight.std().item() == pytest.approx(positions or 0.02, rel=0.02)
    assert not make_model(initializer_range=0).wte.weight.any()
    model.wpe.weight.requires_grad_(False)
    model.resize_position_embeddings(9000)  # whose new rows are as fresh ones, and as trainable as the old
    assert model.wpe.weight[5000:].std().item() == pytest.approx(positions or 0.02, rel=0.02)
    assert not model.wpe.weight.requires_grad


@pytest.mark.parametrize("width", [12, 13, 1])
def test_sinusoids_are_those_of_the_paper(width):
    table = make_model("sinusoidal", n_embd=width).wpe.weight
    for position, column in np.ndindex(LIMIT, width):
        angle = position / 10000 ** (2 * (column // 2) / width)
        expected = math.cos(angle) if column % 2 else math.sin(angle)
        assert table[position, column].item() == pytest.approx(expected, abs=1e-7)


def test_sinusoids_are_not_trained_and_not_saved():
    model = make_model("sinusoidal")
    assert [name for name, _ in model.named_parameters()] == ["wte.weight"]
    assert list(model.state_dict()) == ["wte.weight"]
    assert model.to(torch.bfloat16)(random_ids(1, 4)).last_hidden_state.dtype == torch.bfloat16


class TestResize:
    @pytest.mark.parametrize("size", [10, 40])
    @pytest.mark.parametrize("kind", KINDS)
    def test_positions(self, kind, size):
        model, fresh = make_model(kind), make_model(kind, n_positions=size)
        old = None if kind == "none" else model.wpe.weight.clone()
        assert model.resize_position_embeddings(size) is model.get_position_embeddings()
        assert model.config.n_positions == model.config.max_position_embeddings == size
        if old is not None:
            kept = min(size, LIMIT)
            assert torch.equal(model.wpe.weight[:kept], old[:kept])
            assert model.wpe.weight.shape == (size, WIDTH)
        if kind == "sinusoidal":
            assert torch.equal(model.wpe.weight, fresh.wpe.weight)
        assert model(random_ids(1, size)).last_hidden_state.shape == (1, size, WIDTH)

    @pytest.mark.parametrize("size", [0, 2**25, "40", True])
    def test_bad_sizes_change_nothing(self, size):
        model = make_model()
        with pytest.raises(ValueError, match="`new_num_tokens` must be an integer from 1 to 16777216, got"):
            model.resize_token_embeddings(size)
        with pytest.raises(Exception, match="n_positions"):
            model.resize_position_embeddings(size)
        assert (model.config.vocab_size, model.config.n_positions) == (VOCAB, LIMIT)
        assert model.wte.weight.shape == (VOCAB, WIDTH) and model.wpe.weight.shape == (LIMIT, WIDTH)

    def test_tokens(self, tmp_path):
        model = make_model(eos_token_id=100, bos_token_id=5)
        old, positions = model.wte.weight.clone(), model.wpe.weight.clone()
        model.resize_token_embeddings(VOCAB + 7, mean_resizing=False)
        assert torch.equal(model.wte.weight[:VOCAB], old)
        model.resize_token_embeddings(50)
        assert (model.config.vocab_size, model.config.eos_token_id, model.config.bos_token_id) == (50, None, 5)
        assert torch.equal(model.wpe.weight, positions)
        model.save_pretrained(tmp_path)
        assert torch.equal(GPTEmbeddingsModel.from_pretrained(tmp_path).wte.weight, old[:50])
        with pytest.raises(ValueError, match="from 0 to 49"):
            model(torch.tensor([[50]]))


def test_output_hidden_states():
    model, ids = make_model(), random_ids(2, 3)
    output = model(ids, output_hidden_states=True)
    assert output.hidden_states == (output.last_hidden_state,)
    assert model(ids).hidden_states is None and len(model(ids, return_dict=False)) == 2


def test_without_pooling(tmp_path):
    model, ids = make_pair()[0], random_ids(2, 5)
    model.save_pretrained(tmp_path)
    made = GPTEmbeddingsModel(model.config, add_pooling_layer=False).eval()
    made.load_state_dict(model.state_dict())
    loaded = (kind.from_pretrained(tmp_path, add_pooling_layer=False) for kind in (GPTEmbeddingsModel, AutoModel))
    for other in (made, *loaded):
        output = other(ids)
        assert torch.equal(output.last_hidden_state, model(ids).last_hidden_state)
        assert output.pooler_output is None and len(other(ids, return_dict=False)) == 1
