"""Text: read files and datasets, and encode texts as one flat array of token ids.

Read `discovery`, `files`, `columns`, `sources`; then `tokenizer`, `special_tokens`, `encoding`, and the backends
behind it, `backend`, `gigatoken_backend`, `normalization`; last `sentences`.
"""
