"""Sentences of texts, with texts whose sentences are plain to see."""

from gpt_embeddings.text.sentences import pick_sentences


def test_sentences():
    wrapped = "The tide came in, and with it\nthe clerk. He wrote:\n\n- one thing to do\n- another one\n\n12345 67890"
    assert sorted(pick_sentences([wrapped, "short", wrapped], 10, 0)) == [
        "- another one",
        "- one thing to do",
        "The tide came in, and with it the clerk.",
    ]


def test_a_choice_does_not_depend_on_the_order():
    texts = [f"This is sentence number {i}." for i in range(500)]
    some = pick_sentences(texts, 20, seed=0)
    assert some == pick_sentences(reversed(texts), 20, seed=0) and len(some) == 20
    assert some != pick_sentences(texts, 20, seed=1)


def test_long_sentences_are_cut_up():
    words = [f"tide{i}" for i in range(200)]
    pieces = pick_sentences([" ".join(words)], 10, 0)
    assert all(len(piece) <= 300 for piece in pieces)
    assert sorted(word for piece in pieces for word in piece.split()) == sorted(words)
