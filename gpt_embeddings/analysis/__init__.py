"""Analysis: what can be computed of an input stage, as numbers.

Read `readable_tokens`, `decomposition`, `neighbours`, `projections`, `encodings`, `costs`, `meaning`, `evaluation`.
"""
