"""What the server counts, for Prometheus. Names are OpenTelemetry's where it has one for the same thing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from halfwatt.api.live import LiveModel

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_MODEL = "gen_ai_request_model"
_TOKENS = tuple(4**n for n in range(8))


class Metrics:
    """Of one server."""

    def __init__(self, models: Sequence[LiveModel]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Engines(models))
        self._requests = Counter(
            "halfwatt_requests", "Requests, by how they ended", ["status"], registry=self._registry
        )
        self._broken = Counter("halfwatt_broken_streams", "Streams that ended with an error", registry=self._registry)
        self._first = self._histogram(
            "gen_ai_server_time_to_first_token_seconds", "From a request to its first token", _SECONDS
        )
        self._whole = self._histogram(
            "gen_ai_server_request_duration_seconds", "From a request to the end of its reply", _SECONDS
        )
        self._tokens = self._histogram("gen_ai_client_token_usage", "Tokens of a request", _TOKENS, "gen_ai_token_type")

    def ended(self, status: int) -> None:
        """A request was answered, or refused; 499 = the client had gone."""
        self._requests.labels(str(status)).inc()

    def broke(self) -> None:
        """A stream ended with an error, long after its status was sent."""
        self._broken.inc()

    def replied(self, model: str, first_s: float | None, whole_s: float, tokens_in: int, tokens_out: int) -> None:
        """A reply came to its end."""
        if first_s is not None:
            self._first.labels(model).observe(first_s)
        self._whole.labels(model).observe(whole_s)
        self._tokens.labels(model, "input").observe(tokens_in)
        self._tokens.labels(model, "output").observe(tokens_out)

    def _histogram(self, name: str, words: str, buckets: Sequence[float], *labels: str) -> Histogram:
        """By model, and ``labels``."""
        return Histogram(name, words, [_MODEL, *labels], buckets=buckets, registry=self._registry)

    @property
    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self._registry)


class _Engines(Collector):
    """What the engines and the meter know, read when it is asked for."""

    def __init__(self, models: Sequence[LiveModel]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        loads = (engine.load for model in self._models for engine in model.engines)
        making, waiting = map(sum, zip(*loads, strict=True))
        yield GaugeMetricFamily("halfwatt_replies_in_the_making", "Replies that are made now", making)
        yield GaugeMetricFamily("halfwatt_prompts_waiting", "Prompts that wait for a place", waiting)
        first = self._models[0]
        serving, idle, meter = first.shares.serving, first.shares.idle, first.meter
        cpu = CounterMetricFamily("halfwatt_cpu_seconds", "CPU time of the server", labels=["state"])
        cpu.add_metric(["serving"], serving.cpu_s)
        cpu.add_metric(["idle"], idle.cpu_s)
        yield cpu
        if meter is None or serving.joules is None or idle.joules is None:
            return
        measured = meter.kind == "measured"
        name = "hw_energy_joules" if measured else "halfwatt_modelled_joules"
        words = f"Joules, {meter.kind}, grade {meter.grade}: {meter.covers}"
        joules = CounterMetricFamily(name, words, labels=["hw_id", "state"])
        joules.add_metric([meter.name, "serving"], serving.joules)
        joules.add_metric([meter.name, "idle"], idle.joules)
        yield joules
