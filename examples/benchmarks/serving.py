"""Requests a second, latency and memory of `examples/serve.py` under load, on this machine.

    python examples/benchmarks/serving.py --clients 1 8 32 --seconds 20

Starts the server with a saved classifier, or a small one on the default backbone that is trained
first, and lets clients ask for one docstring after another: each has a connection that stays, and
asks again when it has its answer. All are in this process, the model is in the server's. Then more
clients than the server takes send many texts each: what is refused (503) asks again a tenth of a
second later. All of it is done twice. Every answer is compared with ``predict_proba``. Memory and
open files are the server's, before the first run and after each. Needs the extras ``offline`` and
``bench``.
"""

import argparse
import asyncio
import itertools
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import contest
import numpy as np
import psutil

import sktransformers
from sktransformers.datasets import load_docstrings

EXAMPLES = Path(__file__).parents[1]
sys.path.insert(0, str(EXAMPLES))
import serve  # noqa: E402

BACK_OFF = 0.1  # seconds
WRONG = 1e-3  # in a probability


class Found:
    """What clients have seen."""

    def __init__(self):
        self.seconds = []  # of each answer with probabilities
        self.refused = 0
        self.errors = []

    def row(self, elapsed):
        """Cells of the table."""
        n = len(self.seconds) + self.refused + len(self.errors)
        p50, p99 = np.percentile(self.seconds or [np.nan], [50, 99]) * 1e3
        return [
            f"{len(self.seconds) / elapsed:.1f}",
            f"{p50:.1f}",
            f"{p99:.1f}",
            f"{max(self.seconds, default=np.nan) * 1e3:.0f}",
            f"{self.refused / max(n, 1):.0%}",
            str(len(self.errors)),
        ]


async def ask(reader, writer, texts):
    """Status and content of one answer; the connection stays."""
    body = json.dumps({"texts": texts}).encode()
    head = (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if line)
    content = await reader.readexactly(int(headers["content-length"]))
    return int(first.split()[1]), json.loads(content)


async def client(port, pieces, expected, until, found):
    """Ask again and again, until a time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        piece = next(pieces)
        begin = time.perf_counter()
        status, content = await ask(reader, writer, [expected.texts[i] for i in piece])
        taken = time.perf_counter() - begin
        if status == 503:
            found.refused += 1
            await asyncio.sleep(BACK_OFF)
        elif status != 200:
            found.errors.append(status)
        elif np.abs(content["probabilities"] - expected.proba[piece]).max() > WRONG:
            found.errors.append("wrong")
        else:
            found.seconds.append(taken)
    writer.close()
    await writer.wait_closed()


class Expected:
    """Texts and the probabilities of their classes."""

    def __init__(self, folder, n=2000):
        X = load_docstrings().data
        self.texts = [X[i] for i in np.random.default_rng(0).permutation(len(X))[:n]]
        self.proba = sktransformers.load(folder).predict_proba(self.texts)

    def pieces(self, size):
        """Positions of so many texts, over and over."""
        places = itertools.cycle(range(len(self.texts)))
        while True:
            yield list(itertools.islice(places, size))


async def load(port, expected, n_clients, n_texts, seconds):
    """Let clients ask, and count."""
    found, pieces = Found(), expected.pieces(n_texts)
    begin = time.perf_counter()
    until = begin + seconds
    clients = (client(port, pieces, expected, until, found) for _ in range(n_clients))
    for ended in await asyncio.gather(*clients, return_exceptions=True):
        if ended is not None:
            found.errors.append(repr(ended))
    return found, time.perf_counter() - begin


def start(folder, port, log):
    """The server, when it answers."""
    command = [sys.executable, str(EXAMPLES / "serve.py"), str(folder), "--port", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return server
        except (urllib.error.URLError, OSError):
            if server.poll() is not None:
                break
            time.sleep(0.1)
    raise RuntimeError(f"the server did not start: {Path(log.name).read_text()}")


def resources(server):
    """Memory, open files and threads of a process, as cells of the table."""
    time.sleep(0.5)  # until it has seen that the clients are gone
    process = psutil.Process(server.pid)
    files = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
    return [f"{process.memory_info().rss / 2**20:.0f}", str(files), str(process.num_threads())]


def main():
    """Run the server, and each number of clients in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, help="of save_pretrained")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=20, help="of each run")
    parser.add_argument("--rounds", type=int, default=2, help="of all runs")
    parser.add_argument("--warm-up", type=float, default=5, help="seconds before the first")
    parser.add_argument("--overload", type=int, nargs=2, default=[64, 16], help="clients, texts")
    args = parser.parse_args()
    contest.quiet()
    contest.header(args)
    with tempfile.TemporaryDirectory() as home, (Path(home) / "log").open("w") as log:
        folder = args.model or Path(home) / "model"
        if args.model is None:
            serve.train().save_pretrained(folder)
        expected = Expected(folder)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = start(folder, port, log)
        errors = []
        try:
            asyncio.run(load(port, expected, max(args.clients), 1, args.warm_up))
            columns = "answers/s | p50, ms | p99, ms | longest, ms | refused | errors"
            print(f"\n| clients | texts each | {columns} | MB | open files | threads |")
            print("| --- " * 11 + "|")
            print("| before | " + "| " * 7 + f"| {' | '.join(resources(server))} |", flush=True)
            runs = [*((n, 1) for n in args.clients), args.overload]
            after = []
            for n, texts in runs * args.rounds:
                found, elapsed = asyncio.run(load(port, expected, n, texts, args.seconds))
                row = [str(n), str(texts), *found.row(elapsed), *resources(server)]
                print(f"| {' | '.join(row)} |", flush=True)
                errors += found.errors
                after.append([float(x) for x in resources(server)])
                if (found.refused > 0) != (n == args.overload[0]):
                    errors.append(f"{n} clients: {found.refused} refused")
            for one, other in zip(after[len(runs) - 1], after[-1]):  # MB, open files, threads
                if other > 1.05 * one + 1:
                    errors.append(f"not flat: {after}")
        finally:
            begin = time.perf_counter()
            server.terminate()
            server.wait(60)
        print(f"\nstopped in {time.perf_counter() - begin:.1f} s")
        if errors or "Traceback" in Path(log.name).read_text():
            sys.exit(f"errors: {errors[:10]}\n{Path(log.name).read_text()[-2000:]}")


if __name__ == "__main__":
    main()
