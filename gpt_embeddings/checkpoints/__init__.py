"""Checkpoints: extract the input stage of a GPT and put it back, load, save and export models.

Read `files`, `families`, `conversion`, `static`, `saving`, `loading`, `export`.
"""
