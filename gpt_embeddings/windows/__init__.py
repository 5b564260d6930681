"""Training windows: flat ids cut into (input, target) pairs, streamed or stored, resumable to the token.

Read `packing`, `documents`, `streams`, `corpus`, `cursor`, `loader`, then `token_windows`, `stored_windows`
and `collator`.
"""
