import pytest


@pytest.fixture(scope="session")
def sources(small_tokenizer, tmp_path_factory):
    """A folder with a tiny GPT-2, whose tokenizer does not know its longest sequence, and a static model."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sources")
    config = GPT2Config(vocab_size=500, n_positions=32, n_embd=8, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder / "gpt")
    small_tokenizer.save_pretrained(folder / "gpt")
    static = StaticEmbedding(small_tokenizer.backend_tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[static], device="cpu").save(str(folder / "static"))
    return folder


@pytest.fixture(scope="session")
def gpt(sources):
    return sources / "gpt"
