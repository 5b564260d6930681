"""Training: the tables learned, from text, from a teacher or from pairs, in runs that can be killed.

Read `runs`, `row_adam`, `pooled_loop`, `bigrams`, `clm`, `teacher`, `distillation`, `contrastive`, `token_weights`.
"""
