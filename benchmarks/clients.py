"""What clients of the OpenAI protocol, as they are published, get from our server.

    .venv/bin/python -m benchmarks.clients ARTIFACT --out OUT

Installs openai, langchain-openai, litellm and langchain-neuralwatt into an environment of their own
(benchmarks/peers/requirements/clients.txt) and lets each ask a server of ARTIFACT, streamed and at once. Prints a row
a client, last a JSON line; exits with 1 where a reply is not what the others got, or what it took is lost where the
client keeps such fields.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.ladder import markdown, say
from benchmarks.peers.environments import interpreter
from benchmarks.serve import running

PORT = 18083
PROGRAM = """
import json, os, sys
url, model = sys.argv[1:]
ask, os.environ["NEURALWATT_API_KEY"] = [{"role": "user", "content": "Turn on the light in the kitchen"}], "none"
how, seen = {"base_url": url, "api_key": "none"}, {}

def note(client, text, usage, cached=None):
    seen[client] = {"text": text, "energy": "joules" in str(usage), "cached": cached}

from openai import OpenAI
client = OpenAI(**how).chat.completions
whole = client.create(model=model, messages=ask, temperature=0)
text = whole.choices[0].message.content
note("openai", text, whole.usage, whole.usage.prompt_tokens_details.cached_tokens)
streamed = {"stream": True, "stream_options": {"include_usage": True}}
chunks = list(client.create(model=model, messages=ask, temperature=0, **streamed))
pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
note("openai, streamed", "".join(pieces), chunks[-1].usage)
then = [*ask, {"role": "assistant", "content": text}, {"role": "user", "content": "And in the hall"}]
second = client.create(model=model, messages=then, temperature=0)
note("openai, second turn", "", second.usage, second.usage.prompt_tokens_details.cached_tokens)

from langchain_openai import ChatOpenAI
client = ChatOpenAI(**how, model=model, temperature=0, stream_usage=True)
whole = client.invoke(ask[0]["content"])
note("langchain-openai", whole.content, whole.response_metadata)
chunks = list(client.stream(ask[0]["content"]))
note("langchain-openai, streamed", "".join(chunk.content for chunk in chunks), chunks)

import litellm
asked = {"model": "openai/" + model, "api_base": url, "api_key": "none", "messages": ask, "temperature": 0}
whole = litellm.completion(**asked)
note("litellm", whole.choices[0].message.content, whole.usage)
chunks = list(litellm.completion(**asked, **streamed))
pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
note("litellm, streamed", "".join(pieces), [chunk.model_dump() for chunk in chunks])

from langchain_neuralwatt import ChatNeuralwatt
whole = ChatNeuralwatt(model=model, base_url=url, temperature=0).invoke(ask[0]["content"])
note("langchain-neuralwatt", whole.content, whole.response_metadata["energy"])
print(json.dumps(seen))
"""
DROPPED = {"langchain-openai, streamed", "litellm, streamed"}  # by the client: findings/usage_beyond_the_protocol.sh


def main() -> None:
    """Ask, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    python = interpreter("clients", arguments.out, say)
    command = [sys.executable, "-m", "halfwatt.cli.main", "serve", arguments.artifact, "--port", PORT, "--name", "it"]
    with running("halfwatt", command, PORT, arguments.out / "server.log"):
        url = f"http://127.0.0.1:{PORT}/v1"
        done = subprocess.run([python, "-c", PROGRAM, url, "it"], check=True, stdout=subprocess.PIPE, text=True)
    seen: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    texts = {each["text"] for each in seen.values() if each["text"]}
    lost = [client for client, each in seen.items() if not each["energy"] and client not in DROPPED]
    rows = [["client", "the same reply", "what it took", "cached tokens"]]
    for client, each in seen.items():
        cached = "" if each["cached"] is None else str(each["cached"])
        rows.append(
            [client, "yes" if len(texts) == 1 else repr(each["text"]), "yes" if each["energy"] else "no", cached]
        )
    print(markdown(rows))
    print(json.dumps(seen))
    sys.exit(len(texts) != 1 or bool(lost) or not seen["openai, second turn"]["cached"])


if __name__ == "__main__":
    main()
