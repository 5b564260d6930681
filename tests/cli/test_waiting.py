"""The page that stands at the address of `explore` while its libraries are imported."""

import socket
import urllib.error
import urllib.request

import pytest

from gpt_embeddings_cli.waiting import WaitingPage


def test_it_says_that_it_is_not_the_page_yet_and_lets_go_of_its_port():
    with WaitingPage("127.0.0.1", None) as waiting:
        assert waiting.url == f"http://127.0.0.1:{waiting.port}/"
        with pytest.raises(urllib.error.HTTPError) as answer:
            urllib.request.urlopen(waiting.url, timeout=10)
        assert answer.value.code == 503 and "Opening the page" in answer.value.read().decode()
    with WaitingPage("127.0.0.1", waiting.port):
        pass


def test_without_a_port_it_takes_the_first_that_is_free():
    with WaitingPage("127.0.0.1", None) as first, WaitingPage("127.0.0.1", None) as second:
        assert 7860 <= first.port < second.port


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"Port {port} is taken; give another, or none"):
            WaitingPage("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])  # of RFC 5737 and RFC 2606
def test_an_address_of_another_machine_is_named(host):
    with pytest.raises(OSError, match=f"The page cannot listen at '{host}'"):
        WaitingPage(host, 7860)
