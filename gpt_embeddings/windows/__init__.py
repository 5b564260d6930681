"""Training windows: flat ids cut into (input, target) pairs, streamed or stored, resumable to the token.

Read `packing`, `lanes`, `corpus`, then `token_windows` and `stored_windows`.
"""
