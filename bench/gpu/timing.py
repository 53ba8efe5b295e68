"""Rounds: every arm once in each, in an order shuffled anew, so that all meet the same load, clocks and temperatures.

Arms are compared within rounds, by the ratio of their times, then by median and quartiles of the ratios. Minima are never compared."""

import random
import time
from dataclasses import dataclass, field

from quartiles import Quartiles


@dataclass(frozen=True)
class Options:
    rounds: int = 60
    min_rounds: int = 10
    seconds: float = 4.0  # no round begins after them, once min_rounds are done
    wall_rounds: int = 20
    wall_min_rounds: int = 5
    wall_seconds: float = 8.0
    wall_calls: int = 100
    warm_up_calls: int = 3
    seed: int = 1


@dataclass
class PairedResult:
    """Microseconds a call by arm; sample r of every arm is of round r. probe_bytes: what a call of a probe among the arms moves."""

    samples: dict = field(default_factory=dict)
    probe_bytes: dict = field(default_factory=dict)

    def time(self, arm):
        return Quartiles.of(self.samples[arm])

    def ratio(self, baseline, ours):
        """The baseline's time over ours, round by round: above 1, ours is the faster one."""
        return Quartiles.of([b / o for b, o in zip(self.samples[baseline], self.samples[ours], strict=True)])


def run_rounds(arms, sample, rounds, min_rounds, seconds, seed=1, clock=time.monotonic):
    """arms: callables without arguments by name. sample(call) gives the microseconds of a call."""
    if not arms:
        raise ValueError("there is nothing to time")
    if not 1 <= min_rounds <= rounds:
        raise ValueError(f"1 <= min_rounds ({min_rounds}) <= rounds ({rounds}) does not hold")
    result = PairedResult({name: [] for name in arms})
    order, shuffle, begin = list(arms), random.Random(seed).shuffle, clock()
    for done in range(rounds):
        if done >= min_rounds and clock() - begin >= seconds:
            break
        shuffle(order)
        for name in order:
            result.samples[name].append(sample(arms[name]))
    return result


def device_sample(device):
    """One call between two events, after the L2 cache was flushed. The flush hides some of the time that the host takes to launch; what it
    does not hide counts, as it does in a program."""
    timer = device.timer()

    def sample(call):
        device.synchronize()
        device.flush()
        timer.start()
        call()
        timer.stop()
        return timer.microseconds()

    return sample


def wall_sample(device, calls, clock=time.perf_counter_ns):
    """Wall time of many calls and one final synchronisation, a call."""

    def sample(call):
        device.synchronize()
        begin = clock()
        for _ in range(calls):
            call()
        device.synchronize()
        return (clock() - begin) / 1e3 / calls

    return sample


class Rotation:
    """Calls arms on one copy of the data after the other, whichever arm comes."""

    def __init__(self, copies):
        self._copies, self._turn = copies, 0

    def of(self, call):
        def next_one():
            turn, self._turn = self._turn, (self._turn + 1) % self._copies
            call(turn)

        return next_one


class Probe:
    """What the memory gives for so many bytes: an in-place triad y <- y + s x, 12 bytes an element, or a copy y <- x, 8 bytes."""

    def __init__(self, device, moved, triad, cache_bytes):
        element_bytes = 12 if triad else 8
        elements = -(-moved // element_bytes)
        self.bytes = elements * element_bytes
        pairs = copies_beyond(8 * elements, cache_bytes)
        tensors = [(device.normal(elements), device.normal(elements)) for _ in range(pairs)]
        operation = device.triad if triad else device.copy
        self.call = Rotation(pairs).of(lambda turn: operation(*tensors[turn]))


def copies_beyond(footprint, cache_bytes, most=24):
    """How many copies of data together exceed the cache twice, so that a copy was evicted when its turn comes again."""
    return max(1, min(most, -(-2 * cache_bytes // footprint)))
