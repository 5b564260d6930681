"""Embedding: texts to vectors, in your own `map()`, over a whole dataset, or on a cluster; and search in them.

Read `weights`, `shards`, `embedder`, `dataset`, `cluster`, `search`.
"""
