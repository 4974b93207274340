"""Replica dispatch: given the experts of a step, choose one replica of each so that the busiest bank is minimal.

Exact where the replicas of experts that have a choice are disjoint sets of banks, or the same, and have parts of one
size, as whole experts of one size do: each set of banks is then one unit whose fullest bank stays its fullest bank, a
choice is a semi-matching of experts to units, and it is optimal if and only if no path of moves leads from the
busiest bank to one that stays below it (Harvey, Ladner, Lovász, Tamir, "Semi-matchings for bipartite graphs and load
balancing", J. Algorithms 59, 2006, theorem 3.1; loads that cannot move only shift where a bank starts). Where the
experts with a choice are sharded, the problem is NP-hard (two replicas over two banks each hold PARTITION), and
single moves that lower the busiest bank are made until there is none.

Choices depend on the order of experts and replicas, never on how banks are numbered: a placement whose banks are
numbered anew costs the same. This file needs nothing but Python: an emitted `schedule.py` carries it.
"""

from collections.abc import Sequence

TOLERANCE = 1e-9
"""Loads closer than this, relative to the busiest bank, are equal."""


class Dispatcher:
    """Chooses replicas for one layer, step after step."""

    def __init__(self, banks: int, replicas: Sequence[Sequence[Sequence[int]]], sizes: Sequence[float]) -> None:
        """Prepare a layer.

        Args:
            banks: number of banks.
            replicas: [expert][replica] the banks that hold it in equal parts; none for an expert that is not resident.
            sizes: [expert] resident bytes.
        """
        self.banks = banks
        self.copies = [tuple(tuple(copy) for copy in copies) for copies in replicas]
        self.parts = [[size / len(c) for c in copies] for copies, size in zip(self.copies, sizes, strict=True)]
        self.homes = [copies[0] if len(copies) == 1 else () for copies in self.copies]
        self.free = [len(copies) > 1 for copies in self.copies]
        shared = list(dict.fromkeys(c for copies in self.copies if len(copies) > 1 for c in copies))
        # Replicas that are disjoint or the same fill their banks evenly: each set of banks is then one unit.
        self.is_disjoint = sum(map(len, shared)) == len({bank for copy in shared for bank in copy})
        self.units = shared if self.is_disjoint else [(bank,) for bank in range(banks)]
        number = {unit: place for place, unit in enumerate(self.units)}
        self.targets = [
            [(number[copy],) if self.is_disjoint else copy for copy in copies] if is_free else []
            for copies, is_free in zip(self.copies, self.free, strict=True)
        ]
        open_parts = {part for parts, is_free in zip(self.parts, self.free, strict=True) if is_free for part in parts}
        self.is_exact = self.is_disjoint and len(open_parts) <= 1

    def choose(self, experts: Sequence[int]) -> list[int]:
        """Return the replica to use of each of these (distinct) experts."""
        chosen = [0] * len(experts)
        places = [place for place, expert in enumerate(experts) if self.free[expert]]
        if places:
            load = self._unit_load(self._fixed_load(experts))
            self._start(experts, places, load, chosen)
            improve = self._shift if self.is_exact else self._move
            while improve(experts, places, load, chosen):
                pass
        return chosen

    def busiest(self, experts: Sequence[int], chosen: Sequence[int]) -> float:
        """Return the bytes in the busiest bank under a choice."""
        load = [0.0] * self.banks
        for expert, replica in zip(experts, chosen, strict=True):
            if self.copies[expert]:
                self._add(load, self.copies[expert][replica], self.parts[expert][replica])
        return max(load)

    def lower_bound(self, experts: Sequence[int]) -> float:
        """Return a bound on the busiest bank of any choice.

        The largest of: the fixed load of a bank, the mean of all banks, and, for every expert with a choice, the
        least that the fixed load and its own part can make of its banks.
        """
        load = self._fixed_load(experts)
        bound = max(load)
        total = sum(load)
        for expert in experts:
            if self.free[expert]:
                total += self.parts[expert][0] * len(self.copies[expert][0])
                pairs = zip(self.copies[expert], self.parts[expert], strict=True)
                bound = max(bound, min(part + max(load[bank] for bank in copy) for copy, part in pairs))
        return max(bound, total / self.banks)

    def _fixed_load(self, experts: Sequence[int]) -> list[float]:
        """Load of the experts that have one replica only."""
        load, everywhere, banks = [0.0] * self.banks, 0.0, self.banks
        for expert in experts:
            home = self.homes[expert]
            if len(home) == 1:
                load[home[0]] += self.parts[expert][0]
            elif len(home) == banks:
                everywhere += self.parts[expert][0]
            elif home:
                self._add(load, home, self.parts[expert][0])
        return [bytes_ + everywhere for bytes_ in load] if everywhere else load

    def _unit_load(self, load: list[float]) -> list[float]:
        """Load of the fullest bank of each unit; the last entry is that of all banks, which no choice undoes."""
        if not self.is_disjoint:
            return load
        fullest = [load[unit[0]] if len(unit) == 1 else max([load[bank] for bank in unit]) for unit in self.units]
        return [*fullest, max(load)]

    @staticmethod
    def _add(load: list[float], copy: Sequence[int], part: float) -> None:
        for bank in copy:
            load[bank] += part

    def _start(self, experts: Sequence[int], places: list[int], load: list[float], chosen: list[int]) -> None:
        """Give every expert the replica whose banks are least loaded so far, few choices and large parts first."""
        parts, copies = self.parts, self.targets
        places.sort(key=lambda place: (len(copies[experts[place]]), -parts[experts[place]][0]))
        for place in places:
            expert = experts[place]
            best, lowest = 0, float("inf")
            for replica, copy in enumerate(copies[expert]):
                highest = load[copy[0]] if len(copy) == 1 else max(map(load.__getitem__, copy))
                if highest + parts[expert][replica] < lowest:
                    best, lowest = replica, highest + parts[expert][replica]
            chosen[place] = best
            self._add(load, copies[expert][best], parts[expert][best])

    def _shift(self, experts: Sequence[int], places: list[int], load: list[float], chosen: list[int]) -> bool:
        """Move one expert along each edge of a path from the busiest bank to one that stays below it, if there is."""
        copies = self.targets
        part = self.parts[experts[places[0]]][0]
        highest = max(load)
        limit = highest * (1 - TOLERANCE) - part
        if min(load) >= limit:
            return False
        inside: dict[int, list[int]] = {}
        for place in places:
            inside.setdefault(copies[experts[place]][chosen[place]][0], []).append(place)
        start = next((bank for bank in inside if load[bank] >= highest), -1)
        reached_by: dict[int, tuple[int, int]] = {start: (-1, -1)}
        queue = [start]
        for bank in queue:
            for place in inside.get(bank, ()):
                for replica, copy in enumerate(copies[experts[place]]):
                    target = copy[0]
                    if target in reached_by:
                        continue
                    reached_by[target] = (place, replica)
                    if load[target] < limit:
                        self._apply(experts, reached_by, target, load, chosen, part)
                        return True
                    queue.append(target)
        return False

    def _apply(
        self,
        experts: Sequence[int],
        reached_by: dict[int, tuple[int, int]],
        target: int,
        load: list[float],
        chosen: list[int],
        part: float,
    ) -> None:
        load[target] += part
        while True:
            place, replica = reached_by[target]
            if place < 0:
                load[target] -= part
                return
            target = self.targets[experts[place]][chosen[place]][0]
            chosen[place] = replica

    def _move(self, experts: Sequence[int], places: list[int], load: list[float], chosen: list[int]) -> bool:
        """Move one expert off a busiest bank to a replica that stays below it, if there is one."""
        highest = max(load)
        limit = highest * (1 - TOLERANCE)
        busiest = {bank for bank, bytes_ in enumerate(load) if bytes_ >= limit}
        for place in places:
            expert, old = experts[place], chosen[place]
            if busiest.isdisjoint(self.targets[expert][old]):
                continue
            self._add(load, self.targets[expert][old], -self.parts[expert][old])
            for replica, copy in enumerate(self.targets[expert]):
                part = self.parts[expert][replica]
                if replica != old and max(map(load.__getitem__, copy)) + part < limit:
                    self._add(load, copy, part)
                    chosen[place] = replica
                    return True
            self._add(load, self.targets[expert][old], self.parts[expert][old])
        return False
