"""A page to look at while the libraries are imported: at the address of the one to come, and gone when that is there.

Left out: the page that is waited for (`gpt_embeddings.explore.page`).
"""

import errno
import ipaddress
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType


PORTS = range(7860, 7960)  # where Gradio looks for a free one, too

# It asks again until the answer is another page's, since nobody answers in the moment between the two.
PAGE = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="color-scheme" content="light dark">
<title>gpt-embeddings explore</title>
<noscript><meta http-equiv="refresh" content="2"></noscript>
<body style="font: 1.1rem/1.5 system-ui, sans-serif; display: grid; place-content: center; height: 90vh">
<p role="status">Opening the page; the first time on a machine this may take half a minute.</p>
<script>
let missed = 0;
setInterval(async () => {
  try {
    const answer = await fetch(location.href, {cache: "no-store"});
    missed = 0;
    if (answer.ok) location.reload();
  } catch {
    if (++missed === 40)
      document.querySelector("p").textContent = "The command has ended; its last lines say why.";
  }
}, 500);
</script>
"""


class WaitingPage:
    """Serves one page, with status 503, until it is closed; nothing beyond the standard library is imported.

    Args:
        host: Address to listen at.
        port: Port; None takes the first free one from 7860.

    Attributes:
        port: The port.
        url: The address of the page, as a browser takes it.

    Raises:
        OSError: The port is taken, or the host is no address of this machine.
    """

    def __init__(self, host: str, port: int | None) -> None:
        self._server = _listen(host, port)
        self.port: int = self._server.server_address[1]
        named = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # as Gradio has it
        self.url = f"http://[{named}]:{self.port}/" if ":" in named else f"http://{named}:{self.port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let go of the port; it may be called again."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> "WaitingPage":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(PAGE)))
        self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal is the command's."""


class _Server(ThreadingHTTPServer):
    allow_reuse_address = os.name != "nt"  # where it would share a port that is in use


class _Server6(_Server):
    address_family = socket.AF_INET6


def _listen(host: str, port: int | None) -> ThreadingHTTPServer:
    kind = _Server6 if ":" in host else _Server
    for candidate in PORTS if port is None else (port,):
        try:
            return kind((host, candidate), _Handler)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise OSError(f"The page cannot listen at {host!r}, port {candidate}: {error.strerror}.") from error
            taken = error
    if port is not None:
        message = f"Port {port} is taken; give another, or none for the first free one from {PORTS.start}."
        raise OSError(message) from taken
    raise OSError(f"No port from {PORTS.start} to {PORTS.stop - 1} is free; give one with `--port`.") from taken
