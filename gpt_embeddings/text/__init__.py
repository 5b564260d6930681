"""Text: from files and datasets to sentences, and from texts to one flat array of token ids.

Read `columns`, `files`, `sources`; `tokenizer`, `encoding`; then what works behind it: `engine`, `gigatoken_engine`,
`word_cache`; last `sentences`.
"""
