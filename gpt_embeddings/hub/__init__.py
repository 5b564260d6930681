"""The Hub: a complete model repository with its card, on disk or published. Read `cards`, `push`."""
