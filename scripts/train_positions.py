"""Train the learned position table that the explore page shows for models without positions: in two minutes.

    python scripts/train_positions.py

A GPT-2 of two blocks reads the characters of the story. The blocks are what makes use of positions: in a zero-layer
GPT (`train clm`) all rows of `wpe` stay nearly equal.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

from gpt_embeddings import from_gpt
from gpt_embeddings.explore.views import LEARNED_POSITIONS


STORY = Path(__file__).parents[1] / "data" / "the_tide_clerk.txt"
N_POSITIONS, N_EMBD, BATCH, STEPS = 64, 32, 32, 1500


def main() -> None:
    """Train, and write the table."""
    text = STORY.read_text(encoding="utf-8")
    characters = sorted(set(text))
    ids = torch.tensor([characters.index(character) for character in text])
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(characters),
        n_positions=N_POSITIONS,
        n_embd=N_EMBD,
        n_layer=2,
        n_head=2,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    gpt = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=3e-3, weight_decay=0.1)
    for step in range(STEPS):
        starts = torch.randint(len(ids) - N_POSITIONS, (BATCH,))
        batch = ids[starts[:, None] + torch.arange(N_POSITIONS)]  # (BATCH, N_POSITIONS)
        loss = gpt(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step == STEPS - 1:
            print(f"step {step}: loss {loss.item():.3f}")
    wpe = from_gpt(gpt).get_parameter("wpe.weight").detach().half()
    save_file({"wpe": wpe.contiguous()}, LEARNED_POSITIONS, {"source": "a GPT-2 of 2 blocks, characters of the story"})


if __name__ == "__main__":
    main()
