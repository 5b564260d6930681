"""Text: read files and datasets, and encode texts as one flat array of token ids.

Read `discovery`, `files`, `columns`, `sources`; then `tokenizer`, `encoding`, and the fast backend
behind it, `gigatoken_backend`; last `sentences`.
"""
