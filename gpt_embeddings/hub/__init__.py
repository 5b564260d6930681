"""The Hub: one complete repository from one call, on disk or published.

Read `cards`, `advice`, `repository`, `push`; `export` for other libraries.
"""
