r"""Serve a text classifier over HTTP.

    python examples/serve.py my-model --port 8000
    curl http://127.0.0.1:8000/predict -H 'Content-Type: application/json' \
        -d '{"texts": ["a lovely film", "two hours lost"]}'

my-model is a directory that `save_pretrained` wrote; without one a small classifier is trained
first. One thread predicts. While it is busy texts wait, and what waits when it becomes free is
predicted together: in batches under load, else at once. Only so many texts may wait; what comes
then is refused with 503. Needs the extra ``serve``.
"""

import argparse
import asyncio
import logging
import traceback
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, StringConstraints

import sktransformers

MAX_BODY = 2**20  # bytes of a request; else 413
MAX_TEXTS, MAX_CHARACTERS = 64, 20_000  # texts of a request, characters of a text; else 422
MAX_CONNECTIONS = 256  # open ones; else 503
Text = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]
log = logging.getLogger("uvicorn.error")


class Texts(BaseModel):
    """What a request holds."""

    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]


class Refused(Exception):
    """Too many texts wait, or the server is about to end."""


class Waiting:
    """Texts of a request, and what will be known of them."""

    def __init__(self, texts):
        self.texts = texts
        self.answer = asyncio.get_running_loop().create_future()


class Batcher:
    """Predict the texts of many requests together, in one thread.

    All but `predict_each` runs in the event loop, so that nothing needs a lock.
    """

    def __init__(self, predict, max_waiting, max_batch):
        self.predict = predict
        self.max_waiting = max_waiting  # texts
        self.max_batch = max_batch  # texts, or one request
        self.queue = deque()
        self.arrived = asyncio.Event()
        self.is_open = True

    def n_waiting(self):
        return sum(len(each.texts) for each in self.queue)

    async def answer(self, texts):
        """Wait for what the model makes of some texts."""
        if not self.is_open or self.n_waiting() + len(texts) > self.max_waiting:
            raise Refused
        mine = Waiting(texts)
        self.queue.append(mine)
        self.arrived.set()
        try:
            return await mine.answer
        finally:
            if mine in self.queue:  # the time is up
                self.queue.remove(mine)

    async def run(self):
        """Predict what comes until `close` is called."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "predict") as thread:
            while await self.arrived.wait() and self.is_open:
                batch = self.take()
                if not batch:  # all that came has gone
                    continue
                texts = [each.texts for each in batch]
                answers = await loop.run_in_executor(thread, self.predict_each, texts)
                for each, answer in zip(batch, answers):
                    if not each.answer.done():
                        each.answer.set_result(answer)

    def take(self):
        """The requests that have waited for longest, as many as a batch can hold."""
        batch, n = [], 0
        while self.queue and (not batch or n + len(self.queue[0].texts) <= self.max_batch):
            batch.append(self.queue.popleft())
            n += len(batch[-1].texts)
        if not self.queue:
            self.arrived.clear()
        return batch

    def predict_each(self, requests):
        """Probabilities of the texts of each request; None where the model raised an error."""
        try:
            proba = self.predict([text for texts in requests for text in texts])
            return np.split(proba, np.cumsum([len(texts) for texts in requests])[:-1])
        except Exception as error:
            if len(requests) > 1:
                return [self.predict_each([texts])[0] for texts in requests]
            # Without its message: nobody knows what of a text is in it.
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("prediction failed: %s\n%s", type(error).__name__, where)
            return [None]

    def close(self):
        """Let `run` end after the batch in hand, and refuse what waits."""
        self.is_open = False
        for each in self.queue:
            each.answer.set_exception(Refused())
        self.queue.clear()
        self.arrived.set()


def make_app(clf, max_waiting=256, max_batch=64, timeout=10):
    """An application that serves a fitted classifier.

    At most max_waiting texts wait, and no request for longer than timeout seconds.
    """
    batcher = Batcher(clf.predict_proba, max_waiting, max_batch)
    classes = clf.classes_.tolist()
    threshold = getattr(clf, "threshold_", None)  # where a text may have several labels

    @asynccontextmanager
    async def lifespan(app):
        running = asyncio.create_task(batcher.run())
        yield
        batcher.close()
        await running

    # FastAPI before 0.165 knows no max_body_size, and does not say so.
    app = FastAPI(title="sktransformers", lifespan=lifespan, max_body_size=MAX_BODY)

    @app.get("/health")
    async def health():
        return {"status": "ok", "waiting": batcher.n_waiting()}

    @app.post("/predict")
    async def predict(request: Texts):
        try:
            proba = await asyncio.wait_for(batcher.answer(request.texts), timeout)
        except Refused:
            raise HTTPException(503, "too many texts wait", {"Retry-After": "1"}) from None
        except TimeoutError:
            raise HTTPException(504, f"no answer within {timeout} seconds") from None
        if proba is None:
            raise HTTPException(500, "these texts could not be predicted")
        if threshold is None:
            labels = [classes[i] for i in proba.argmax(axis=1)]
        else:
            labels = [[classes[i] for i in np.flatnonzero(row > threshold)] for row in proba]
        return JSONResponse({"labels": labels, "probabilities": proba.tolist(), "classes": classes})

    @app.exception_handler(RequestValidationError)
    async def invalid(request, error):  # FastAPI's own answer would hold the texts
        found = [{"at": each["loc"], "message": each["msg"]} for each in error.errors()]
        return JSONResponse({"detail": found}, 422)

    return app


def train():
    """A classifier that tells of which package a docstring is."""
    X, y = sktransformers.datasets.load_docstrings(return_X_y=True)
    clf = sktransformers.TransformerSequenceClassifier(max_epochs=1, random_state=0)
    return clf.fit(X[::10], y[::10])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="a saved directory; without one, train a model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--backend", help='of accelerate, such as "onnx"')
    args = parser.parse_args()
    clf = sktransformers.load(args.model) if args.model else train()
    clf = clf.accelerate(args.backend) if args.backend else clf
    # At the end what waits is answered first. Lines of the access log hold no bodies.
    options = {"limit_concurrency": MAX_CONNECTIONS, "timeout_graceful_shutdown": 15}
    uvicorn.run(make_app(clf), host=args.host, port=args.port, **options)


if __name__ == "__main__":
    main()
