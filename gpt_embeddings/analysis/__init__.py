"""Analysis: numbers about an input stage and its vectors.

Read `readable_tokens`, `decomposition`, `similarity`, `neighbours`, `projections`, `encodings`, `evaluation`.
"""
