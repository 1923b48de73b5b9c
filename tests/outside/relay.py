"""A relay before an HTTP server: it counts requests and bytes, and can kill a process at one of its requests."""

import collections
import re
import socket
import threading

METHOD = re.compile(rb"(GET|PUT|POST|DELETE|HEAD|PATCH) ")


class Relay:
    """Passes connections on to the server at a port of this machine.

    A client that waits for each answer before it sends the next request begins a chunk with it.
    """

    def __init__(self, server):
        self.server = server
        self.lock = threading.RLock()
        self.reset()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def reset(self):
        """Counts from nothing again."""
        with self.lock:
            self.requests = collections.Counter()
            self.sent = self.received = 0
            self.process, self.request, self.answered = None, 0, False

    def kill(self, begin, request, answered):
        """Begins a process that is killed at the request with this number: before the server sees the request, or
        after the server has answered it and before the process sees the answer."""
        with self.lock:
            self.reset()
            self.process, self.request, self.answered = begin(), request, answered
        self.process.communicate()
        return self.process.returncode

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self.server))
            last = threading.Event()
            for copy, source, sink in [(self.ask, client, server), (self.answer, server, client)]:
                threading.Thread(target=self.copy, args=(copy, source, sink, last), daemon=True).start()

    def copy(self, passes, source, sink, last):
        """Passes chunks on, as long as `passes` is true of them. `last` is set where the process dies at the answer."""
        try:
            while (chunk := source.recv(1 << 18)) and passes(chunk, last):
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def ask(self, chunk, last):
        with self.lock:
            self.sent += len(chunk)
            method = METHOD.match(chunk)
            if not method:
                return True
            self.requests[method[1].decode()] += 1
            if self.process is None or self.requests.total() != self.request:
                return True
            if not self.answered:
                self.process.kill()
                return False
            last.set()
            return True

    def answer(self, chunk, last):
        with self.lock:
            self.received += len(chunk)
            if last.is_set() and self.process is not None:
                self.process.kill()
                return False
            return True
