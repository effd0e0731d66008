"""examples/serve.py: batches, limits, and what it says when something is wrong."""

import asyncio
import http.client
import json
import logging
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import uvicorn

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import serve


class Held:
    """A classifier that predicts only when it is let, and remembers what it was asked."""

    def __init__(self, clf):
        self.clf = clf
        self.classes_ = clf.classes_
        self.let = threading.Event()
        self.busy = threading.Event()
        self.asked = []

    def predict_proba(self, texts):
        self.asked.append(list(texts))
        self.busy.set()
        assert self.let.wait(20)
        if "poison" in texts:
            raise RuntimeError(f"what is wrong with {texts}?")
        return self.clf.predict_proba(texts)


class Running:
    """A server in a thread."""

    def __init__(self, app):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        options = {"log_config": None, "timeout_graceful_shutdown": 10}
        self.server = uvicorn.Server(uvicorn.Config(app, **options))
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()
        _until(lambda: self.server.started)

    def ask(self, method, path, body=None, headers=(("Content-Type", "application/json"),)):
        """Status, content and headers of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), dict(answer.getheaders())
        finally:
            connection.close()

    def predict(self, texts):
        """Status and content of an answer to texts."""
        status, content, _ = self.ask("POST", "/predict", json.dumps({"texts": texts}))
        return status, json.loads(content)

    def waiting(self):
        """How many texts wait."""
        status, content, _ = self.ask("GET", "/health")
        assert status == 200
        return json.loads(content)["waiting"]

    def stop(self):
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


def _until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextmanager
def serving(clf, **options):
    server = Running(serve.make_app(clf, **options))
    try:
        yield server
    finally:
        getattr(clf, "let", threading.Event()).set()
        server.stop()


@pytest.fixture(scope="module")
def server(fitted):
    with serving(fitted) as running:
        yield running


@pytest.fixture
def held(fitted):
    return Held(fitted)


@pytest.fixture
def pool():
    """Clients: each has a thread of its own."""
    with ThreadPoolExecutor(40) as found:
        yield found


def occupy(server, held, pool, texts=("o",)):
    """A request that the model has in hand."""
    first = pool.submit(server.predict, list(texts))
    assert held.busy.wait(20)
    return first


# ---------------------------------------------------------------- answers


def test_answers_are_those_of_the_classifier(server, fitted, texts):
    status, answer = server.predict(texts)
    assert status == 200 and answer["classes"] == fitted.classes_.tolist()
    assert answer["labels"] == fitted.predict(texts).tolist()
    assert np.allclose(answer["probabilities"], fitted.predict_proba(texts), atol=1e-6)


def test_several_labels_a_text(make_clf, texts, labels):
    y = np.array([[label == "food", label != "city"] for label in labels], dtype=int)
    clf = make_clf(threshold=0.4).fit(texts, y)
    with serving(clf) as running:
        status, answer = running.predict(texts[:8])
    assert status == 200
    rows = [[int(c in found) for c in clf.classes_] for found in answer["labels"]]
    assert rows == clf.predict(texts[:8]).tolist()


def test_what_waits_is_predicted_together_and_each_gets_its_own(held, fitted, texts, pool):
    requests = [texts[3 * i : 3 * i + 1 + i % 3] for i in range(12)]
    n = sum(map(len, requests))
    with serving(held) as running:
        first = occupy(running, held, pool)
        answers = [pool.submit(running.predict, each) for each in requests]
        _until(lambda: running.waiting() == n)
        held.let.set()
        assert first.result()[0] == 200
        for request, answer in zip(requests, answers):
            status, content = answer.result()
            assert status == 200
            expected = fitted.predict_proba(request)
            assert np.allclose(content["probabilities"], expected, atol=1e-5)
    assert [len(asked) for asked in held.asked] == [1, n]


def test_a_batch_holds_no_more_than_it_may(held, pool):
    with serving(held, max_batch=4) as running:
        first = occupy(running, held, pool)
        answers = [pool.submit(running.predict, ["o"] * n) for n in (3, 3, 1, 2, 6)]
        _until(lambda: running.waiting() == 15)
        held.let.set()
        assert [each.result()[0] for each in (first, *answers)] == [200] * 6
    sizes = [len(asked) for asked in held.asked]
    assert sum(sizes) == 16 and sorted(sizes)[-1] == 6 and sorted(sizes)[-2] <= 4


# --------------------------------------------------------------- overload


def test_overload_is_refused_at_once_and_goes_by(held, pool):
    with serving(held, max_waiting=6) as running:
        first = occupy(running, held, pool)
        waiting = [pool.submit(running.predict, ["o", "o"]) for _ in range(30)]
        _until(lambda: sum(each.done() for each in waiting) == 27)
        assert running.waiting() == 6
        status, _, headers = running.ask("POST", "/predict", '{"texts": ["o"]}')
        assert status == 503 and int(headers["retry-after"]) > 0
        assert not first.done()
        held.let.set()
        found = sorted(each.result()[0] for each in (first, *waiting))
        assert found == [200] * 4 + [503] * 27
        assert running.waiting() == 0 and running.predict(["o"])[0] == 200


def test_who_waits_too_long_is_told_and_leaves_the_queue(held, pool):
    with serving(held, timeout=0.2) as running:
        first = occupy(running, held, pool)
        late = [pool.submit(running.predict, ["late"]) for _ in range(3)]
        assert [each.result()[0] for each in (first, *late)] == [504] * 4
        assert running.waiting() == 0
        held.let.set()
        _until(lambda: running.predict(["o"])[0] == 200)
    assert not any("late" in asked for asked in held.asked)


# ------------------------------------------------------------------ errors

SECRET = "SECRET"
BAD = {
    "no JSON": ('{"texts": ["SECRET"', 422),
    "surrogate": ('{"texts": ["\\ud800 SECRET"]}', 422),
    "no UTF-8": (b'{"texts": ["\xff"]}', 400),
    "empty": ("", 422),
    "no texts": ('{"text": ["SECRET"]}', 422),
    "one text": ('{"texts": "SECRET"}', 422),
    "empty list": ('{"texts": []}', 422),
    "a number": ('{"texts": ["o", 1, null, ["SECRET"]]}', 422),
    "a list": ('["SECRET"]', 422),
    "not a number": ('{"texts": NaN}', 422),
    "deep": ("[" * 100_000, 400),
    "digits": ("1" * 100_000, 400),
    "many": (json.dumps({"texts": [SECRET] * (serve.MAX_TEXTS + 1)}), 422),
    "long": (json.dumps({"texts": ["o", SECRET * serve.MAX_CHARACTERS]}), 422),
    "large": (json.dumps({"texts": [SECRET * serve.MAX_BODY]}), 413),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_bodies_are_the_clients_fault(server, case, caplog):
    body, expected = BAD[case]
    with caplog.at_level(logging.DEBUG):
        status, content, _ = server.ask("POST", "/predict", body)
    assert status == expected
    assert SECRET not in content + caplog.text
    assert server.predict(["o"])[0] == 200


def test_an_error_says_where(server):
    _, content, _ = server.ask("POST", "/predict", BAD["a number"][0])
    found = json.loads(content)["detail"]
    assert [each["at"] for each in found] == [["body", "texts", i] for i in (1, 2, 3)]


def test_a_body_without_an_announced_length_has_the_same_limit(server):
    pieces = (b"x" * 2**16 for _ in range(2**5))
    status, _, _ = server.ask("POST", "/predict", pieces)
    assert status == 413


def test_a_bad_request_spoils_no_other(held, pool, caplog):
    with serving(held) as running, caplog.at_level(logging.DEBUG):
        first = occupy(running, held, pool)
        others = [pool.submit(running.predict, ["o", "wave"]) for _ in range(3)]
        bad = pool.submit(running.predict, ["boat", "poison"])
        _until(lambda: running.waiting() == 8)
        held.let.set()
        assert bad.result() == (500, {"detail": "these texts could not be predicted"})
        assert [each.result()[0] for each in (first, *others)] == [200] * 4
    assert "RuntimeError" in caplog.text and "poison" not in caplog.text


# ------------------------------------------------------------------ the end


def test_what_waits_is_answered_before_the_end(held, pool):
    before = _predicting()
    with serving(held) as running:
        answers = [occupy(running, held, pool)]
        answers += [pool.submit(running.predict, ["o", "o"]) for _ in range(3)]
        _until(lambda: running.waiting() == 6)
        running.server.should_exit = True
        _until(lambda: not running.server.servers[0].is_serving())
        held.let.set()
        assert [each.result()[0] for each in answers] == [200] * 4
    assert _predicting() == before


def _predicting():
    """Threads of models."""
    return {thread for thread in threading.enumerate() if "predict" in thread.name}


def test_the_model_is_not_asked_for_nothing(held):
    async def scene():
        batcher = serve.Batcher(held.predict_proba, 10, 10)
        running = asyncio.create_task(batcher.run())
        in_hand = asyncio.create_task(batcher.answer(["o"]))
        await asyncio.to_thread(held.busy.wait, 20)
        late = asyncio.create_task(batcher.answer(["late"]))
        await asyncio.sleep(0)
        late.cancel()
        await asyncio.wait([late])
        held.let.set()
        await in_hand
        batcher.close()
        await asyncio.wait_for(running, 20)

    asyncio.run(scene())
    assert held.asked == [["o"]]


def test_a_closed_batcher_refuses_what_waits_and_what_comes(held):
    async def scene():
        batcher = serve.Batcher(held.predict_proba, 10, 10)
        running = asyncio.create_task(batcher.run())
        in_hand = asyncio.create_task(batcher.answer(["o"]))
        await asyncio.to_thread(held.busy.wait, 20)
        waits = asyncio.create_task(batcher.answer(["wave"]))
        await asyncio.sleep(0)
        batcher.close()
        with pytest.raises(serve.Refused):
            await waits
        with pytest.raises(serve.Refused):
            await batcher.answer(["late"])
        held.let.set()
        assert (await in_hand).shape == (1, 3)
        await asyncio.wait_for(running, 20)

    asyncio.run(scene())
    assert held.asked == [["o"]]
