"""Progress where there is no terminal, and the sums of counts."""

import io

import pytest

from gpt_embeddings.progress import Bar, Counts, Progress


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def test_a_line_every_ten_seconds(clock):
    log = io.StringIO()
    with Bar(total=600, desc="Windows", unit=" windows", file=log) as bar:
        for second in range(600):
            clock[0] += 0.1
            bar.update()
            bar.set_postfix({"loss": second}, refresh=False)
    *lines, rest = log.getvalue().split("\n")
    assert [int(line.split("|")[-1].split("/")[0]) for line in lines] == pytest.approx(range(100, 601, 100), abs=6)
    assert all(line.startswith("Windows: ") and "loss=" in line for line in lines)
    assert rest == "" and "\r" not in log.getvalue()
    log = io.StringIO()
    for _ in Bar(range(50), file=log, leave=False):
        clock[0] += 0.1
    assert log.getvalue() == ""  # done sooner


def test_a_terminal_has_a_bar():
    log = io.StringIO()
    log.isatty = lambda: True
    for _ in Bar(range(3), file=log):
        pass
    assert "3/3" in log.getvalue() and "\r" in log.getvalue()


def test_progress_counts(clock, capsys):
    progress = Progress(10)
    progress.skip(4)
    for _ in range(2):
        clock[0] += 11
        progress.add(Counts(3, 20, 100, nulls=1, truncated=2))
    progress.close()
    assert progress.counts == Counts(6, 40, 200, nulls=2, truncated=4) and progress.resumed == 4
    lines = capsys.readouterr().err.strip().split("\n")
    assert len(lines) == 2 and "10/10" in lines[1] and "tokens/s" in lines[1]


def test_a_speed_is_told_of_what_is_long_enough_to_have_one():
    """The first megabyte is the start: 30 paragraphs were said to take 0.0008 MB/s."""
    progress = Progress(hidden=True)
    progress.counts, progress.seconds = Counts(3, 2000, 8800), 2.0
    assert progress.summary() == "2,000 tokens and 8.8 kB of text in 2.0 s."
    progress.counts = Counts(6, 500_000, 2_000_000)
    assert progress.summary() == "500,000 tokens and 2.0 MB of text in 2.0 s: 250,000 tokens/s, 1 MB/s."
