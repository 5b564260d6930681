"""Embedding: texts to vectors, in a `map()` of your own, over a whole dataset, or on a cluster.

Read `shared_weights`, `embedder`, `shards`, `dataset`, `cluster`.
"""
