"""What windows are, by two others: the definition in the docstring of `TokenWindows`, token by token, and the book."""

import functools
import random

import numpy as np
import pytest
import tiktoken
import torch
from transformers.convert_slow_tokenizer import bytes_to_unicode

from gpt_embeddings import load_tokenizer
from gpt_embeddings.text import encoding


EOT = 50256
TOKENIZER = load_tokenizer()
with pytest.MonkeyPatch.context() as patch:  # for `tokenizers` itself: the proof of gigatoken takes seconds
    patch.setattr(encoding, "find_gigatoken", lambda *arguments: None)
    encoding.prepare(TOKENIZER)


@functools.cache
def encode(text):
    """Ids as `tokenizers` gives them, special tokens being plain text."""
    ids = TOKENIZER(text, split_special_tokens=True)["input_ids"]
    assert EOT not in ids
    return tuple(ids)


def cut(t, max_length, stride, tail):
    """The windows of a sequence as (input_ids, target_ids), padded with (EOT, -100)."""
    windows, seen = [], set()
    for i in range(0, len(t), stride):
        places = range(i + 1, min(i + max_length, len(t) - 1) + 1)  # of the targets
        full = i + max_length < len(t)
        if full or (tail == "pad" and any(place not in seen for place in places)):
            seen.update(places)
            inputs, targets = t[i : i + max_length], t[i + 1 : i + max_length + 1]
            inputs = inputs + [EOT] * (max_length - len(inputs))
            targets = targets + [-100] * (max_length - len(targets))
            windows.append((inputs, targets))
    return windows


def reference(documents, max_length, stride, packing="stream", tail="pad"):
    """All windows of one stream."""
    encoded = [encode(text) for text in documents if text]
    encoded = [ids for ids in encoded if ids]
    if packing == "document":
        return [w for ids in encoded for w in cut([*ids, EOT], max_length, stride, tail)]
    stream = []
    for ids in encoded:
        stream += [EOT, *ids] if stream else ids
    return cut(stream, max_length, stride, tail)


def batched(streams, batch_size, drop_last=False):
    """Windows of several streams as batches: a batch of each stream in turn."""
    queues = [[stream[i : i + batch_size] for i in range(0, len(stream), batch_size)] for stream in streams]
    if drop_last:
        queues = [[batch for batch in queue if len(batch) == batch_size] for queue in queues]
    return [queue[i] for i in range(max(map(len, queues), default=0)) for queue in queues if i < len(queue)]


def plain(batches):
    """Batches of a loader as lists of (input_ids, target_ids)."""
    return [list(zip(batch["input_ids"].tolist(), batch["target_ids"].tolist(), strict=True)) for batch in batches]


class Lines:
    """Documents that can be iterated over again and again, and no more."""

    def __init__(self, texts):
        self.texts = texts

    def __iter__(self):
        return iter(self.texts)


def order_of(size, seed, epoch):
    """The order in which an epoch is shuffled."""
    order = np.arange(size, dtype=np.uint32)
    np.random.default_rng([seed, epoch]).shuffle(order)
    return order.tolist()


def joined(lists):
    """One list of the elements of all."""
    return [element for part in lists for element in part]


def words(n_documents, seed=0, longest=40):
    """Documents of English words, some empty."""
    draw = random.Random(seed)
    pool = "the cat sat on a mat while seventeen unbelievable zeppelins crossed Köln <|endoftext|> 123".split()
    return [" ".join(draw.choice(pool) for _ in range(draw.randint(0, longest))) for _ in range(n_documents)]


@functools.cache
def book_tokenizer():
    """`tiktoken.get_encoding("gpt2")` from our vocabulary, without a download."""
    to_byte = {character: byte for byte, character in bytes_to_unicode().items()}
    vocab = TOKENIZER.get_vocab()
    special = {"<|endoftext|>": vocab.pop("<|endoftext|>")}
    ranks = {bytes(to_byte[c] for c in token): i for token, i in vocab.items()}
    pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
    return tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


# As LLMs-from-scratch, chapter 2, has them; only the tokenizer is handed in.
class GPTDatasetV1(torch.utils.data.Dataset):
    def __init__(self, txt, tokenizer, max_length, stride):
        self.input_ids = []
        self.target_ids = []

        token_ids = tokenizer.encode(txt, allowed_special={"<|endoftext|>"})

        for i in range(0, len(token_ids) - max_length, stride):
            input_chunk = token_ids[i : i + max_length]
            target_chunk = token_ids[i + 1 : i + max_length + 1]
            self.input_ids.append(torch.tensor(input_chunk))
            self.target_ids.append(torch.tensor(target_chunk))

    def __len__(self):
        return len(self.input_ids)

    def __getitem__(self, idx):
        return self.input_ids[idx], self.target_ids[idx]
