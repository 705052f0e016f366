"""The meters of one run."""

from __future__ import annotations

from dataclasses import dataclass

from halfwatt.meters.base import EnergyMeter, MeterInfo, Usage


@dataclass(slots=True)
class UsageBox:
    """Where the modelled meter looks: the use of the process under test at the edge in question."""

    now: Usage = Usage(0.0, 0.0, 0)  # noqa: RUF009 - frozen

    def get(self) -> Usage:
        return self.now


@dataclass(frozen=True, slots=True)
class Instruments:
    """The meters of a run. ``primary`` gives the joules; ``modelled`` reads ``box`` instead of the machine."""

    primary: EnergyMeter | None
    others: tuple[EnergyMeter, ...] = ()
    modelled: EnergyMeter | None = None
    box: UsageBox | None = None

    @property
    def info(self) -> MeterInfo | None:
        """The meter that the joules come from."""
        chosen = self.primary or self.modelled
        return None if chosen is None else chosen.info

    def close(self) -> None:
        """Close every meter; some keep a thread."""
        for meter in (self.primary, *self.others, self.modelled):
            if meter is not None:
                meter.close()


def instruments(device: str, *, rapl_root: str | None = None) -> Instruments:
    """The best meters of this machine for work on ``device``; the modelled one where there is none."""
    from halfwatt.meters.discover import choose

    chosen = choose(device, rapl_root=rapl_root)
    box = UsageBox()
    if chosen.primary is not None or device != "cpu":
        return Instruments(chosen.primary, tuple(chosen.others))
    from halfwatt.core.machine import cores
    from halfwatt.meters.modelled import ModelledMeter

    return Instruments(None, (), ModelledMeter(box.get, cores()), box)
