#!/usr/bin/env bash
# A server of the OpenAI protocol may say more in `usage` than the protocol has, joules say. Whether a program gets to see it hangs on
# the client, and on whether the reply was streamed: openai 3.57.0 keeps it in both; langchain-openai 1.7.4 and litellm 1.110.2 keep it
# of a reply at once, and drop it, without a word, of a streamed one, whose last chunk they read into a record of their own.
#
# One would expect: that a field of `usage` is kept by both ways of asking, or by neither.
#
# Seen on Python 3.11 (at once, streamed):
#   openai            kept, kept
#   langchain-openai  kept, dropped
#   litellm           kept, dropped
#   still so
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > ask.py <<'PY'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USAGE = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4, "energy": {"joules": 0.25}}
OWN = {"id": "x", "created": 1, "model": "m"}


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if asked.get("stream"):
            said = {"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": None}
            ended = {"index": 0, "delta": {}, "finish_reason": "stop"}
            parts = [{"choices": [said]}, {"choices": [ended]}, {"choices": [], "usage": USAGE}]
            lines = [json.dumps({**OWN, "object": "chat.completion.chunk", **part}) for part in parts]
            body, kind = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]), "text/event-stream"
        else:
            said = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
            body = json.dumps({**OWN, "object": "chat.completion", "choices": [said], "usage": USAGE})
            kind = "application/json"
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url, ask = f"http://127.0.0.1:{server.server_port}/v1", [{"role": "user", "content": "Hello"}]


def by_openai():
    from openai import OpenAI

    client = OpenAI(base_url=url, api_key="none").chat.completions
    whole = client.create(model="m", messages=ask).usage
    stream = client.create(model="m", messages=ask, stream=True, stream_options={"include_usage": True})
    return whole, [chunk.usage for chunk in stream]


def by_langchain():
    from langchain_openai import ChatOpenAI

    client = ChatOpenAI(base_url=url, api_key="none", model="m", stream_usage=True)
    return client.invoke("Hello").__dict__, [chunk.__dict__ for chunk in client.stream("Hello")]


def by_litellm():
    import litellm

    how = {"model": "openai/m", "api_base": url, "api_key": "none", "messages": ask}
    stream = litellm.completion(**how, stream=True, stream_options={"include_usage": True})
    return litellm.completion(**how).usage, [chunk.model_dump() for chunk in stream]


def kept(answer):
    return "kept" if "joules" in str(answer) else "dropped"


seen = {}
for name, client in (("openai", by_openai), ("langchain-openai", by_langchain), ("litellm", by_litellm)):
    seen[name] = ", ".join(map(kept, client()))
    print(f"{name:17} {seen[name]}")
sys.exit(seen != {"openai": "kept, kept", "langchain-openai": "kept, dropped", "litellm": "kept, dropped"})
PY
python3 -m venv env
env/bin/python -m pip install --quiet --no-compile --disable-pip-version-check openai==3.57.0 langchain-openai==1.7.4 litellm==1.110.2
env/bin/python ask.py 2> words || { tail -3 words >&2; echo "this has changed"; exit 1; }
echo "still so"
