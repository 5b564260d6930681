"""What the input stage costs: parameters and bytes of its two tables, for any size and for the GPTs as published."""

from dataclasses import dataclass

from configuration_gpt_embeddings import GPTEmbeddingsConfig


DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Cost:
    """The size of the tables `wte` and `wpe`."""

    vocab_size: int
    n_positions: int
    n_embd: int

    def __post_init__(self) -> None:
        GPTEmbeddingsConfig(vocab_size=self.vocab_size, n_positions=self.n_positions, n_embd=self.n_embd)

    @property
    def wte(self) -> int:
        """Parameters of the token table."""
        return self.vocab_size * self.n_embd

    @property
    def wpe(self) -> int:
        """Parameters of the position table."""
        return self.n_positions * self.n_embd

    @property
    def parameters(self) -> int:
        """Parameters of both."""
        return self.wte + self.wpe

    def n_bytes(self, dtype: str = "float32") -> int:
        """Return the bytes of both in a dtype, a key of `DTYPE_BYTES`."""
        return self.parameters * DTYPE_BYTES[dtype]


# Sizes as published: Radford et al. 2018, OpenAI's four checkpoints of 2019, table 2.1 of Brown et al. 2020.
PUBLISHED = {
    "GPT-1": Cost(40478, 512, 768),
    "GPT-2": Cost(50257, 1024, 768),
    "GPT-2 medium": Cost(50257, 1024, 1024),
    "GPT-2 large": Cost(50257, 1024, 1280),
    "GPT-2 XL": Cost(50257, 1024, 1600),
    "GPT-3": Cost(50257, 2048, 12288),
}


def format_bytes(n_bytes: int) -> str:
    """Return bytes in units of 1024: `format_bytes(157_535_232)` is "150.2 MiB"."""
    size, unit = float(n_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
