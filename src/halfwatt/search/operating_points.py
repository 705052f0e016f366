"""Operating points: the ways of serving an artifact that a search looks at. Pure."""

from __future__ import annotations

from dataclasses import replace

from halfwatt.formats.artifact import Artifact
from halfwatt.runtimes.base import OperatingPoint, Speculation

PLAIN_KV_BITS = 16  # of a KV cache as the runtime computes it
_DRAFTS = ((3, 0.5), (4, 0.3))  # of a table: tokens at most, probability that all of them are right at least


def by_threads(cores: int) -> list[OperatingPoint]:
    """Decode on few threads, prefill on as many or on all."""
    counts = sorted({1, min(2, cores), cores})
    pairs = {(decode, prefill) for decode in counts for prefill in (decode, cores) if decode <= 2 or decode == prefill}
    return [OperatingPoint(threads=d, threads_prefill=p) for d, p in sorted(pairs)]


def by_batches(at: OperatingPoint, users: int, cores: int) -> list[OperatingPoint]:
    """``at`` as it is, and answering 2, 4, ... users at once, on its threads and on all cores."""
    batches = sorted({*(2**k for k in range(1, users.bit_length())), users} - {1})
    threads = sorted({at.threads or cores, cores})
    return [at, *(replace(at, batch=b, threads=t, threads_prefill=t) for b in batches for t in threads)]


def by_caches(at: OperatingPoint) -> list[OperatingPoint]:
    """``at`` as it is, and with a KV cache of fewer bits, where the runtime can."""
    return [at, replace(at, kv_bits=8), replace(at, kv_bits=4)]


def by_guesses(artifact: Artifact, at: OperatingPoint) -> list[OperatingPoint]:
    """``at`` as it is, and with every way of guessing ahead that the artifact has; its replies are the same in all."""
    if artifact.runtime != "llamacpp":
        return [at]
    ways = [Speculation("lookup")]
    if artifact.draft is not None:
        ways += [Speculation("table", longest, least) for longest, least in _DRAFTS]
    return [at, *(replace(at, speculation=way) for way in ways)]
