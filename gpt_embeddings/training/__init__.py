"""Training: tables learned from text, from a teacher or from pairs, in runs that can be killed and resumed.

Read `options`, `row_adam`, `runs`, `bigrams`, `clm`, `teacher`, `distillation`, `contrastive`, `classification`,
`token_weights`.
"""
