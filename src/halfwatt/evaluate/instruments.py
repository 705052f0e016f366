"""The meters of one run."""

from __future__ import annotations

from dataclasses import dataclass

from halfwatt.core.machine import cores
from halfwatt.meters.base import EnergyMeter, MeterInfo
from halfwatt.meters.discover import choose
from halfwatt.meters.modelled import model_of


@dataclass(frozen=True, slots=True)
class Instruments:
    """``primary`` gives the joules, or without one ``model``; ``others`` are read beside it and never added."""

    primary: EnergyMeter | None
    others: tuple[EnergyMeter, ...] = ()
    model: MeterInfo | None = None

    @property
    def info(self) -> MeterInfo | None:
        """Where the joules come from; None = there are none (grade F)."""
        return self.model if self.primary is None else self.primary.info

    @property
    def infos(self) -> tuple[MeterInfo, ...]:
        """All of them, that of the joules first."""
        first = () if self.info is None else (self.info,)
        return (*first, *(meter.info for meter in self.others))

    def close(self) -> None:
        """Close every meter; some keep a thread."""
        for meter in (self.primary, *self.others):
            if meter is not None:
                meter.close()


def instruments(device: str, *, rapl_root: str | None = None) -> Instruments:
    """The best meters of this machine for work on ``device``; the model of a processor where there is none."""
    meters = choose(device, rapl_root=rapl_root)
    model = model_of(cores()) if meters.primary is None and device == "cpu" else None
    return Instruments(meters.primary, meters.others, model)
