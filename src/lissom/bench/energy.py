"""The energy that the processor reports to have used."""

from __future__ import annotations

from pathlib import Path

# Linux's interface to RAPL, the energy counters of Intel and AMD
ZONES_FOLDER = Path("/sys/class/powercap")


class Meter:
    """Measures the energy of all processor packages: that of the whole machine, not of one process.

    Source: https://docs.kernel.org/power/powercap/powercap.html
    """

    def __init__(self, zones: Path = ZONES_FOLDER) -> None:
        self.zones = [zone for zone in sorted(zones.glob("intel-rapl:*")) if _is_package(zone)]
        self.before = self._read()

    def _read(self) -> list[int] | None:
        try:
            return [
                int((zone / "energy_uj").read_text(encoding="utf-8")) for zone in self.zones
            ] or None
        except (OSError, ValueError):  # since 2020 only root may read it
            return None

    def joules(self) -> float | None:
        """Return the joules used since the last call, or since the meter was made; None if unknown."""
        before = self.before
        self.before = self._read()
        if before is None or self.before is None:
            return None
        counters = zip(self.zones, before, self.before, strict=True)
        microjoules = sum(self._since(zone, earlier, now) for zone, earlier, now in counters)
        return microjoules / 1e6

    @staticmethod
    def _since(zone: Path, before: int, now: int) -> int:
        """Return the difference of a counter that wraps around at its end."""
        if now >= before:
            return now - before
        end = int((zone / "max_energy_range_uj").read_text(encoding="utf-8"))
        return now - before + end


def _is_package(zone: Path) -> bool:
    """Return whether a zone is a whole processor, not a part of one or psys, which includes it."""
    try:
        return (zone / "name").read_text(encoding="utf-8").startswith("package")
    except OSError:
        return False
