"""The zero-layer GPT: loss, gradients and generation against GPT-2 without layers; what a head owes to libraries."""

import copy
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from hypothesis import given, settings
from hypothesis import strategies as st
from installed import older
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    pipeline,
)
from two_processes import run_two

import modeling_gpt_embeddings
from gpt_embeddings import TokenWindows, WindowCollator
from modeling_gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsForCausalLM, GPTEmbeddingsModel


ROOT = Path(__file__).parent.parent
SIZES = {"vocab_size": 40, "n_positions": 32, "n_embd": 8, "embd_pdrop": 0.0}
IDS = torch.tensor([[5, 6, 7, 8, 9, 1], [9, 10, 11, 12, 13, 2]])


def make_model(**options) -> GPTEmbeddingsForCausalLM:
    torch.manual_seed(0)
    return GPTEmbeddingsForCausalLM(GPTEmbeddingsConfig(**{"initializer_range": 0.5, **SIZES, **options})).eval()


def gpt2_without_layers(model: GPTEmbeddingsForCausalLM) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=40,
        n_positions=32,
        n_embd=8,
        n_layer=0,
        n_head=1,
        embd_pdrop=0.0,
        tie_word_embeddings=model.config.tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=None,
    )
    gpt2 = GPT2LMHeadModel(config).eval()
    gpt2.transformer.ln_f = torch.nn.Identity()
    gpt2.load_state_dict(model.state_dict())
    return gpt2


class TestLoss:
    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize(
        ("chunk", "num_items"), [(1, None), (3, 7), (100, torch.tensor(7))], ids=["mean", "int", "tensor"]
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
        for loss in losses:
            (loss * 3).backward()
        gradients = [dict(model.named_parameters()) for model in (ours, theirs)]
        assert gradients[0].keys() == gradients[1].keys()
        for name, parameter in gradients[0].items():
            torch.testing.assert_close(parameter.grad, gradients[1][name].grad)

    def test_shift_labels_are_not_shifted(self):
        model, targets = make_model(), torch.randint(40, (2, 6))
        expected = F.cross_entropy(model(IDS).logits.view(-1, 40), targets.view(-1))
        torch.testing.assert_close(model(IDS, shift_labels=targets).loss, expected)
        torch.testing.assert_close(model(IDS, labels=IDS, shift_labels=targets).loss, expected)

    @pytest.mark.slow
    def test_gradient_by_differences(self):
        model = make_model(tie_word_embeddings=False).double()

        def loss(wte, head):
            weights = {"transformer.wte.weight": wte, "lm_head.weight": head}
            return torch.func.functional_call(model, weights, (IDS,), {"labels": IDS}).loss

        inputs = [w.detach().clone().requires_grad_() for w in (model.transformer.wte.weight, model.lm_head.weight)]
        assert torch.autograd.gradcheck(loss, inputs)

    def test_nothing_to_score(self):
        model = make_model()
        assert model(IDS, labels=torch.full_like(IDS, -100), num_items_in_batch=5).loss == 0
        assert model(IDS[:, :1], labels=IDS[:, :1]).loss.isnan()  # the mean of nothing, as transformers has it

    def test_frozen_tables(self):
        model = make_model(tie_word_embeddings=False)
        model.lm_head.weight.requires_grad_(False)
        model(IDS, labels=IDS).loss.backward()
        assert model.lm_head.weight.grad is None
        assert model.transformer.wte.weight.grad.any()
        with torch.no_grad():
            assert not model(IDS, labels=IDS).loss.requires_grad

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, dtype):
        model = make_model().to(dtype)
        exact = copy.deepcopy(model).float()
        losses = [m(IDS, labels=IDS).loss for m in (model, exact)]
        assert losses[0].dtype == torch.float32
        torch.testing.assert_close(*losses, rtol=0.02, atol=0)
        for loss in losses:
            loss.backward()
        assert model.lm_head.weight.grad.dtype == dtype
        torch.testing.assert_close(model.lm_head.weight.grad.float(), exact.lm_head.weight.grad, rtol=0.05, atol=0.01)

    def test_autocast(self):
        model = make_model()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(IDS, labels=IDS).loss
        loss.backward()
        torch.testing.assert_close(loss, model(IDS, labels=IDS).loss, rtol=0.02, atol=0)
        assert model.lm_head.weight.grad.dtype == torch.float32

    def test_a_hook_on_the_head_is_asked(self):
        model = make_model()
        plain = model(IDS, labels=IDS).loss
        seen = []
        model.lm_head.register_forward_hook(lambda module, args, out: seen.append(out.shape))
        loss = model(IDS, labels=IDS).loss
        torch.testing.assert_close(loss, plain)
        loss.backward()
        assert seen and model.lm_head.weight.grad.any()

    def test_a_loss_function_of_the_caller(self):
        model = make_model()
        model.loss_function = lambda logits, labels, **options: logits.sum() * 0 + len(labels)
        assert model(IDS, labels=IDS).loss == 2

    @pytest.mark.slow
    def test_logits_are_never_whole(self):
        """With ten times the tokens the peak of memory of a process grows by vectors alone, not by logits."""
        code = """if True:
            import resource, torch
            from modeling_gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsForCausalLM
            torch.set_num_threads(1)
            model = GPTEmbeddingsForCausalLM(GPTEmbeddingsConfig(n_embd=16, position_embedding_type="none"))
            model.config.n_positions = 64 * 64
            for times in (6, 64):
                ids = torch.randint(50257, (1, 64 * times))
                model(ids, labels=ids).loss.backward()
                print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        """
        peaks = [int(line) for line in subprocess.check_output([sys.executable, "-c", code], cwd=ROOT).split()]
        # Whole logits would add 58 * 64 * 50,257 * 4 bytes = 746 MB, and as much again for their gradient.
        assert peaks[1] - peaks[0] < 150_000  # kB

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (torch.full((2, 6), 40), "`labels` must lie from 0 to 39 .* got 40"),
            (torch.full((2, 6), -1), "got -1"),
            (IDS[:, :5], r"shape \(batch, position\) = \(2, 6\)"),
            (IDS.float(), "int64 or int32"),
        ],
        ids=["high", "low", "short", "float"],
    )
    def test_bad_labels(self, labels, message):
        with pytest.raises(ValueError, match=message):
            make_model()(IDS, labels=labels)

    @settings(max_examples=25, deadline=None)
    @given(st.data())
    def test_any_labels(self, data):
        model = make_model(tie_word_embeddings=False)
        labels = data.draw(st.lists(st.sampled_from([-100, *range(40)]), min_size=12, max_size=12))
        targets = torch.tensor(labels).view(2, 6)
        expected = F.cross_entropy(model(IDS).logits.view(-1, 40), targets.view(-1), reduction="sum")
        got = model(IDS, shift_labels=targets, num_items_in_batch=1).loss
        torch.testing.assert_close(got, expected)


class TestLogits:
    def test_logits_are_those_of_gpt2(self):
        model = make_model()
        torch.testing.assert_close(model(IDS).logits, gpt2_without_layers(model)(IDS).logits)

    def test_logits_to_keep(self):
        model = make_model()
        logits = model(IDS).logits
        assert logits.shape == (2, 6, 40)
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

    def test_greedy_is_that_of_gpt2(self):
        model = make_model(tie_word_embeddings=False)
        expected = self.greedy(gpt2_without_layers(model), IDS, use_cache=False)
        assert torch.equal(self.greedy(model, IDS), expected)

    @pytest.mark.parametrize("use_cache", [True, False])
    def test_left_padding_changes_nothing(self, use_cache):
        model = make_model(tie_word_embeddings=False)
        padded = F.pad(IDS, (3, 0))
        mask = (torch.arange(9) >= 3).long().expand(2, 9)
        got = self.greedy(model, padded, attention_mask=mask, use_cache=use_cache)
        assert torch.equal(got[:, 3:], self.greedy(model, IDS))

    @pytest.mark.skipif(older("transformers", "5.5"), reason="generate() repeats given position_ids before 5.5")
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

    def test_sampling_follows_the_distribution(self):
        model = make_model(tie_word_embeddings=False)
        torch.manual_seed(0)
        drawn = model.generate(IDS[:1].repeat(4000, 1), do_sample=True, top_k=0, max_new_tokens=1, pad_token_id=0)[
            :, -1
        ]
        expected = model(IDS[:1]).logits[0, -1].softmax(-1)
        frequency = torch.bincount(drawn, minlength=40) / 4000
        assert (frequency - expected).abs().max() < 5 * (0.25 / 4000) ** 0.5

    def test_beams(self):
        out = self.greedy(make_model(tie_word_embeddings=False), IDS, num_beams=3, num_return_sequences=2)
        assert out.shape == (4, 15)

    def test_past_the_last_position(self):
        with pytest.raises(ValueError, match="n_positions"):
            make_model().generate(IDS, max_new_tokens=40, do_sample=False, pad_token_id=0)


# PEFT asks by a name that transformers has deprecated.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
class TestContract:
    @pytest.mark.parametrize("tied", [True, False])
    def test_saved_and_loaded(self, tied, tmp_path):
        model = make_model(tie_word_embeddings=tied)
        model.save_pretrained(tmp_path)
        auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
        assert auto_map == {
            "AutoConfig": "configuration_gpt_embeddings.GPTEmbeddingsConfig",
            "AutoModel": "modeling_gpt_embeddings.GPTEmbeddingsModel",
            "AutoModelForCausalLM": "modeling_gpt_embeddings.GPTEmbeddingsForCausalLM",
        }
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert type(loaded) is GPTEmbeddingsForCausalLM
        assert torch.equal(loaded(IDS).logits, model(IDS).logits)
        assert (loaded.lm_head.weight is loaded.transformer.wte.weight) == tied
        base = AutoModel.from_pretrained(tmp_path)
        assert type(base) is GPTEmbeddingsModel
        assert torch.equal(base(IDS).last_hidden_state, model.transformer(IDS).last_hidden_state)
        base.save_pretrained(tmp_path / "base")  # which has no head to offer
        auto_map = json.loads((tmp_path / "base" / "config.json").read_text())["auto_map"]
        assert sorted(auto_map) == ["AutoConfig", "AutoModel"]

    def test_a_head_on_a_saved_input_stage(self, tmp_path):
        base = GPTEmbeddingsModel(GPTEmbeddingsConfig(**SIZES)).eval()
        base.save_pretrained(tmp_path)
        head = GPTEmbeddingsForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(head.lm_head.weight, base.wte.weight)

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

    def test_positions_are_drawn_narrower(self):
        model = make_model(n_embd=64, position_initializer_range=0.01)
        assert model.transformer.wpe.weight.std() < 0.012

    def test_a_projection_cannot_be_tied(self):
        with pytest.raises(ValueError, match="tie_word_embeddings"):
            make_model(word_embed_proj_dim=4)
        model = make_model(word_embed_proj_dim=4, tie_word_embeddings=False)
        assert model(IDS, labels=IDS).loss > 0

    def test_pipeline(self, gpt2_tokenizer):
        model = GPTEmbeddingsForCausalLM(GPTEmbeddingsConfig(n_embd=8, n_positions=32)).eval()
        tokenizer = copy.deepcopy(gpt2_tokenizer)  # the pipeline pads it on the left from now on
        generate = pipeline("text-generation", model=model, tokenizer=tokenizer)
        text = generate("The sea", max_new_tokens=4, do_sample=False)[0]["generated_text"]
        assert text.startswith("The sea") and len(text) > len("The sea")

    @pytest.mark.slow
    def test_compiled(self):
        torch._dynamo.reset()
        model = make_model(tie_word_embeddings=False)
        expected = model(IDS, labels=IDS).loss
        expected.backward()
        gradient = model.lm_head.weight.grad.clone()
        model.zero_grad()
        compiled = torch.compile(model, fullgraph=True)
        torch.testing.assert_close(compiled(IDS).logits, model(IDS).logits)
        loss = compiled(IDS, labels=IDS).loss
        loss.backward()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(model.lm_head.weight.grad, gradient)

    @pytest.mark.parametrize("tied", [True, False])
    def test_trainable_tokens(self, tied):
        peft = pytest.importorskip("peft")
        plain = make_model(tie_word_embeddings=tied)
        config = peft.TrainableTokensConfig(token_indices=[6, 7], target_modules=["wte"])
        merged = self.train_adapter(peft, plain, config)
        for old, new in (
            (plain.transformer.wte.weight, merged.transformer.wte.weight),
            (plain.lm_head.weight, merged.lm_head.weight),
        ):
            changed = (new != old).any(1).nonzero().flatten().tolist()
            assert changed == ([6, 7] if tied or old is plain.transformer.wte.weight else [])

    def test_trainable_tokens_beside_lora(self):
        peft = pytest.importorskip("peft")
        plain = make_model(tie_word_embeddings=False)
        config = peft.LoraConfig(r=2, target_modules=["lm_head"], trainable_token_indices={"wte": [6, 7]})
        merged = self.train_adapter(peft, plain, config)
        changed = (merged.transformer.wte.weight != plain.transformer.wte.weight).any(1).nonzero().flatten()
        assert changed.tolist() == [6, 7]
        assert not torch.equal(merged.lm_head.weight, plain.lm_head.weight)

    def train_adapter(self, peft, plain, config):
        model = peft.get_peft_model(copy.deepcopy(plain), config)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
        first = model(input_ids=IDS, labels=IDS).loss
        torch.testing.assert_close(first, plain(IDS, labels=IDS).loss)
        for _ in range(3):
            loss = model(input_ids=IDS, labels=IDS).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert model(input_ids=IDS, labels=IDS).loss < first
        adapted = model(input_ids=IDS).logits
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(IDS).logits, adapted)
        return merged


@pytest.mark.slow
class TestTrainer:
    @pytest.fixture
    def windows(self, gpt2_tokenizer):
        text = (ROOT / "data" / "the_tide_clerk.txt").read_text(encoding="utf-8")
        return TokenWindows([text], gpt2_tokenizer, 16).to_dataset()

    def train(self, windows, folder, batch, steps, **options):
        torch.manual_seed(0)
        config = GPTEmbeddingsConfig(n_embd=4, n_positions=16, embd_pdrop=0.0, tie_word_embeddings=False)
        arguments = TrainingArguments(
            str(folder),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            max_steps=2,
            learning_rate=0.01,
            lr_scheduler_type="constant",
            remove_unused_columns=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            **options,
        )
        trainer = Trainer(
            GPTEmbeddingsForCausalLM(config),
            arguments,
            data_collator=WindowCollator(),
            train_dataset=windows,
        )
        trainer.train()
        return trainer.model

    def test_gradient_accumulation_is_one_large_batch(self, windows, tmp_path):
        # The last window is padded, so that batches of unlike numbers of labels are averaged.
        rows = windows.select([0, 1, 2, len(windows) - 1] * 4)
        one, four = (self.train(rows, tmp_path, batch, steps) for batch, steps in ((8, 1), (2, 4)))
        for (name, ours), theirs in zip(one.named_parameters(), four.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, msg=name, rtol=1e-3, atol=1e-5)

    def test_metrics_of_predictions_as_with_gpt2(self, windows, tmp_path):
        """What `compute_metrics` is given, for us and for GPT-2 with the same weights."""

        def of_targets(prediction):
            logits, labels = prediction
            assert logits.shape == (12, 16, 50257) and labels.shape == (12, 16)
            row, place = (labels[:, 1:] != -100).nonzero()
            return {"logit": logits[row, place, labels[row, place + 1]].mean(), "best": logits.argmax(-1).mean()}

        torch.manual_seed(0)
        ours = GPTEmbeddingsForCausalLM(GPTEmbeddingsConfig(n_embd=4, n_positions=16, initializer_range=0.5))
        config = GPT2Config(n_embd=4, n_positions=16, n_layer=0, n_head=1)
        theirs = GPT2LMHeadModel(config)
        theirs.transformer.ln_f = torch.nn.Identity()
        theirs.load_state_dict(ours.state_dict())
        found = []
        for model in (ours, theirs):
            arguments = TrainingArguments(
                str(tmp_path), per_device_eval_batch_size=5, remove_unused_columns=False, report_to="none",
                disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
            )  # fmt: skip
            trainer = Trainer(model, arguments, data_collator=WindowCollator(), compute_metrics=of_targets)
            found.append(trainer.evaluate(windows.select([*range(11), len(windows) - 1])))
        for name in ("eval_loss", "eval_logit", "eval_best"):
            assert found[0][name] == pytest.approx(found[1][name], rel=1e-5)

    def test_two_processes(self, tmp_path, monkeypatch):
        """DDP over gloo: two processes with half a batch each take the steps of one with the whole batch."""
        script = tmp_path / "step.py"
        script.write_text(DDP_STEP, encoding="utf-8")
        run_two(script, tmp_path / "2")
        monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "1")])
        runpy.run_path(str(script))
        AcceleratorState._reset_state(reset_partial_state=True)
        one, two = (torch.load(tmp_path / count, weights_only=True) for count in ("1", "2"))
        for name in one:
            torch.testing.assert_close(one[name], two[name])


DDP_STEP = """
import sys
import torch
from accelerate import Accelerator
from modeling_gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsForCausalLM

torch.manual_seed(0)
accelerator = Accelerator(cpu=True)
config = GPTEmbeddingsConfig(vocab_size=40, n_positions=32, n_embd=8, embd_pdrop=0.0)
model = GPTEmbeddingsForCausalLM(config)
ids = torch.randint(40, (4, 12))
model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.5))
rank, count = accelerator.process_index, accelerator.num_processes
for _ in range(3):
    own = ids[rank::count]
    loss = model(own, labels=own).loss
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
if accelerator.is_main_process:
    torch.save(accelerator.unwrap_model(model).state_dict(), sys.argv[1])
accelerator.end_training()
"""
