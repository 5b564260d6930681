"""Checkpoints: the input stage out of a saved GPT and back into it, and saved models by name.

Read `files`, `tensors`, `families`, `conversion`, `static`, `int8_rows`, `saving`, `loading`.
"""
