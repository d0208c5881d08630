"""An application written by hand: FastAPI under uvicorn, the models in its own process, torch in threads.

The ``/batched`` paths collect requests first, as a careful author would: so many per call, two calls at a time.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import models
import numpy as np
from fastapi import FastAPI, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel

NAMES = os.environ["BENCH_MODELS"].split()
BATCH = int(os.environ["BENCH_BATCH"])
DELAY = float(os.environ["BENCH_DELAY"])
WORKERS = int(os.environ["BENCH_WORKERS"])

app = FastAPI()
loaded = {name: models.load(name) for name in NAMES}


class Number(BaseModel):
    """The tiny body."""

    input: float


@app.get("/ready")
async def ready() -> str:
    return "yes"


@app.post("/echo")
async def echo(number: Number) -> dict[str, float]:
    return {"output": float(loaded["echo"](np.float32([[number.input]]))[0, 0])}


@app.post("/total_json")
async def total_json(request: Request) -> dict[str, float]:
    array = np.asarray((await request.json())["input"], np.float32)
    return {"output": float(loaded["total"](array)[0, 0])}


@app.post("/identity_json")
async def identity_json(request: Request) -> Response:
    array = np.asarray((await request.json())["input"], np.float32)
    return JSONResponse({"output": loaded["identity"](array).tolist()})


@app.post("/total")
async def total(request: Request) -> dict[str, float]:
    return {"output": float(loaded["total"](image(await request.body()))[0, 0])}


@app.post("/identity")
async def identity(request: Request) -> Response:
    given = loaded["identity"](image(await request.body()))
    return Response(given.tobytes(), media_type="application/octet-stream")


@app.post("/length")
async def length(request: Request) -> dict[str, int]:
    return {"length": len(await request.body())}


@app.post("/length_form")
async def length_form(data: UploadFile) -> dict[str, int]:
    return {"length": len(await data.read())}


@app.post("/resnet18")
async def resnet18(request: Request) -> Response:
    return answer(await run_in_threadpool(loaded["resnet18"], image(await request.body())))


@app.post("/transformer")
async def transformer(request: Request) -> Response:
    return answer(await run_in_threadpool(loaded["transformer"], words(await request.body())))


@app.post("/batched/resnet18")
async def batched_resnet18(request: Request) -> Response:
    return answer(await batchers["resnet18"].ask(image(await request.body())))


@app.post("/batched/transformer")
async def batched_transformer(request: Request) -> Response:
    return answer(await batchers["transformer"].ask(words(await request.body())))


class Batcher:
    """A batcher: requests wait at most ``DELAY`` seconds for a batch; ``WORKERS`` batches run at a time."""

    def __init__(self, model: models.Model) -> None:
        self._model = model
        self._waiting: asyncio.Queue[tuple[np.ndarray, asyncio.Future[np.ndarray]]] = asyncio.Queue()
        self._threads = ThreadPoolExecutor(WORKERS)
        self._tasks: list[asyncio.Task[None]] = []

    async def ask(self, row: np.ndarray) -> np.ndarray:
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._serve()) for _ in range(WORKERS)]
        answered = asyncio.get_running_loop().create_future()
        await self._waiting.put((row, answered))
        return await answered

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            end = loop.time() + DELAY
            try:
                async with asyncio.timeout_at(end):
                    while len(batch) < BATCH:
                        batch.append(await self._waiting.get())
            except TimeoutError:
                pass
            rows = np.concatenate([row for row, _ in batch])
            for (_, answered), given in zip(
                batch, await loop.run_in_executor(self._threads, self._model, rows), strict=True
            ):
                answered.set_result(given[None])


batchers = {name: Batcher(loaded[name]) for name in ("resnet18", "transformer") if name in loaded}


def image(body: bytes) -> np.ndarray:
    return np.frombuffer(body, np.float32).reshape(1, *models.IMAGE)


def words(body: bytes) -> np.ndarray:
    return np.frombuffer(body, np.int64).reshape(1, models.TOKENS)


def answer(given: np.ndarray) -> Response:
    return Response(given.tobytes(), media_type="application/octet-stream")
