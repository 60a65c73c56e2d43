"""A small shop, which holds its callers to limits of ratelimitd:

    ratelimitd serve &
    pip install ratelimitd fastapi uvicorn websockets
    uvicorn shop:app
    curl -i localhost:8000/products
    curl -i -X POST -H 'X-API-Key: secret' localhost:8000/orders
    curl -i -H 'X-API-Key: secret' 'localhost:8000/report?words=200'

RATELIMITD_ADDR is where the daemon serves, and RATELIMITD_TIMEOUT how many seconds it may take to answer.
"""

import os

from fastapi import FastAPI, Request, Response, WebSocket
from ratelimitd import EXEMPT, AsyncClient, Limit, Rule, Step, Strategy, api_key, client_address, first_of
from ratelimitd.asgi import RateLimitMiddleware

limits = AsyncClient(
    os.environ.get("RATELIMITD_ADDR", "localhost:8081"),
    timeout=float(os.environ.get("RATELIMITD_TIMEOUT", "0.05")),
)

# One address may ask often, and one customer may order less often.
per_address = limits.limiter("shop", Limit("100/s", name="requests", strategy=Strategy.TOKEN_BUCKET))
per_customer = limits.limiter("shop", Limit("3/min", name="orders", strategy=Strategy.SLIDING_WINDOW_COUNTER))
chat_messages = limits.limiter("shop", Limit("5/min", name="chat"))
per_word = limits.limiter("shop", Limit("1000/day", name="words"))

customer = first_of(api_key("X-API-Key"), client_address("10.0.0.0/8"))
address = Step(per_address, by=client_address("10.0.0.0/8"))

app = FastAPI()
app.add_middleware(
    RateLimitMiddleware,
    rules=[
        Rule([], by=lambda _: EXEMPT, path="/healthz"),
        Rule([address, Step(per_customer, by=customer)], methods=["POST"], path="/orders"),
        Rule([Step(chat_messages, by=customer)], path="/chat", per_message=True),
        Rule([address]),
    ],
)


@app.get("/healthz")
async def healthz() -> str:
    return "ok"


@app.get("/products")
async def products() -> list[str]:
    return ["tea", "coffee"]


@app.post("/orders", status_code=201)
async def orders() -> None:
    pass


@app.get("/report")
async def report(request: Request, words: int = 200) -> Response:
    """Costs as many words as it gets, which nobody knows before it is written."""
    reserved = await per_word.reserve(request.headers.get("X-API-Key", "anonymous"), words)
    if not reserved:
        return Response("too many words today\n", 429)
    written = min(words, 150)  # what it takes to say it
    (await reserved.commit(written)).raise_for_error()
    return Response(f"{written} words\n")


@app.websocket("/chat")
async def chat(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text.upper())
