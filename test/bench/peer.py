"""The same handler behind FastAPI: what the warm rows are compared with."""

from fastapi import FastAPI, Request, Response

app = FastAPI()


def cape_handler(data: bytes) -> bytes:
    return data


@app.post("/")
async def run(request: Request) -> Response:
    return Response(cape_handler(await request.body()), media_type="application/octet-stream")
