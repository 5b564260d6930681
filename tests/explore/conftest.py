import pytest


@pytest.fixture(scope="session")
def saved(tmp_path_factory, gpt2_tokenizer):
    """A model before and after something like training, each with its tokenizer."""
    import torch

    from gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    model = GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=16, n_positions=64)).eval()
    for name in ("before", "after"):
        model.save_pretrained(folder / name)
        gpt2_tokenizer.save_pretrained(folder / name)
        model.wte.weight.data += 0.02
    for language, words in {"en": "cat king queen", "pt": "gato gatos rainha rei"}.items():
        (folder / "after" / f"words.{language}.txt").write_text(words.replace(" ", "\n") + "\n", encoding="utf-8")
    return folder
