"""Training: tables learned from text, from a teacher or from pairs, in runs that can be killed and resumed.

Read `options`, `runs`, `row_adam`, `pooled_loop`, `bigrams`, `clm`, `teacher`, `distillation`, `contrastive`,
`classification`, `token_weights`.
"""
