"""Analysis: what can be computed of an input stage, as numbers.

Read `readable_tokens`, `decomposition`, `similarity`, `neighbours`, `projections`, `encodings`, `costs`, `evaluation`.
"""
