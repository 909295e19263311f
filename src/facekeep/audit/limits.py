"""Limits on matching and its regions, and decisions held to them (SPEC §7.1, §9, §11 R36 to R38)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facekeep.audit.report import RuleBroken
from facekeep.auditlog.brake import FOLLOWED, SEARCH, Asked, Brake
from facekeep.clock import MS_PER_DAY
from facekeep.formats.matching import BOUNDS, Matching


class MatchingLimits:
    """What the last entries that name limits on matching, and regions, allow: none, no rule."""

    def __init__(self) -> None:
        """Start before the first entry."""
        self._limits: Mapping[str, Any] | None = None
        self._thresholds: dict[str, dict[str, tuple[int, int]]] = {}  # by op and model
        self._brake = Brake(Matching())
        self._day, self._began = -1, 0  # of the answers counted, and the index of the first
        self._regions: frozenset[str] | None = None

    def take(self, entry: Mapping[str, Any]) -> None:
        """Take up limits and regions that an entry names."""
        if entry["type"] == "clock":
            self._brake.forget()
        if "regions" in entry:
            self._regions = frozenset(entry["regions"])
        if "matching" in entry:
            self._limits = entry["matching"]
            self._brake.limit(Matching(**{key: entry["matching"][key] for key in BOUNDS}))
            self._thresholds = {
                op: {model: (one, mean) for model, one, mean in entry["matching"][key]}
                for op, key in (("verify", "thresholds"), ("identify", "search_thresholds"))
            }

    @property
    def are_known(self) -> bool:
        """Whether any entry named limits."""
        return self._limits is not None

    def check_region(self, index: int, entry: Mapping[str, Any]) -> None:
        """Judge where an allowed decision was made."""
        if self._regions is not None and entry["region"] not in self._regions:  # SPEC §11 R37
            raise RuleBroken("R37", index, f"the settings do not allow the region {entry['region']}")

    def check(self, index: int, entry: Mapping[str, Any], *, mean: bool) -> None:
        """Judge an allowed decision of somebody bound; ``mean``: a 1:1 reference of several photographs."""
        limits = self._limits
        if limits is None:
            return
        allowed = self._thresholds[entry["op"]].get(entry["model"])
        used = (entry["threshold_e6"], entry.get("mean_e6", entry["threshold_e6"]))
        if entry["op"] == "verify" and allowed is not None:
            allowed, used = (allowed[mean],) * 2, (used[0],) * 2
        if used != allowed:  # SPEC §11 R36
            raise RuleBroken("R36", index, f"it was judged by {used[0]}, which is not allowed for its model")
        if "score" in entry and not limits["scores"]:  # SPEC §11 R36
            raise RuleBroken("R36", index, "a distance left, and none may")
        if len(entry.get("candidates", ())) > limits["top"]:  # SPEC §11 R36
            raise RuleBroken("R36", index, f"it names more than {limits['top']} candidates")
        self._count(index, entry)

    def _count(self, index: int, entry: Mapping[str, Any]) -> None:
        """Hold an answer to those before it, as far as a vault reads them back (SPEC §7.1)."""
        time_ms = entry["time_ms"]
        if time_ms // MS_PER_DAY > self._day:
            self._day, self._began = time_ms // MS_PER_DAY, index
        asked = Asked(entry["by"], entry.get("tag", SEARCH), entry["result"] == "match")
        if index - self._began <= FOLLOWED and self._brake.refuses(asked.by, asked.about, time_ms):
            raise RuleBroken("R38", index, f"principal {asked.by} had no answer coming")  # SPEC §11 R38
        self._brake.note(asked, time_ms)
