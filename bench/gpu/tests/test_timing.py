import itertools
import unittest

import timing
from quartiles import Quartiles
from timing import PairedResult, Rotation, copies_beyond, device_sample, run_rounds, wall_sample


class QuartilesTests(unittest.TestCase):
    def test_quantiles_are_of_type_7(self):
        self.assertEqual(Quartiles.of([4, 1, 3, 2]), (2.5, 1.75, 3.25))
        self.assertEqual(Quartiles.of([7]), (7, 7, 7))
        self.assertEqual(Quartiles.of([1, float("inf"), float("inf")]), (float("inf"), float("inf"), float("inf")))

    def test_nothing_and_nan_have_none(self):
        for values in ([], [1.0, float("nan")]):
            with self.assertRaises(ValueError):
                Quartiles.of(values)


class RoundsTests(unittest.TestCase):
    def test_every_round_runs_every_arm_once_in_changing_order(self):
        called = []
        arms = {name: lambda name=name: called.append(name) for name in "abc"}
        result = run_rounds(arms, lambda call: call() or 1.0, 20, 1, 1e9)
        rounds = [called[i:i + 3] for i in range(0, 60, 3)]
        self.assertTrue(all(sorted(r) == ["a", "b", "c"] for r in rounds))
        self.assertGreater(len({tuple(r) for r in rounds}), 3)
        self.assertEqual([len(samples) for samples in result.samples.values()], [20, 20, 20])

    def test_time_ends_the_rounds_but_not_before_the_least_number(self):
        for least, tick, expected in ((1, 1, 3), (7, 10, 7)):
            clock = itertools.count(0, tick)
            result = run_rounds({"a": None}, lambda call: 1.0, 50, least, 3, clock=lambda: next(clock))
            self.assertEqual(len(result.samples["a"]), expected)

    def test_ratios_are_taken_within_rounds(self):
        result = PairedResult({"ours": [1, 10, 100], "other": [2, 20, 200]})
        self.assertEqual(result.ratio("other", "ours"), (2, 2, 2))

    def test_impossible_options_are_refused(self):
        with self.assertRaisesRegex(ValueError, "nothing to time"):
            run_rounds({}, None, 1, 1, 1)
        for rounds, least in ((5, 6), (5, 0)):
            with self.assertRaisesRegex(ValueError, "min_rounds"):
                run_rounds({"a": None}, lambda call: 1.0, rounds, least, 1)


class FakeDevice:
    def __init__(self):
        self.log = []

    def synchronize(self):
        self.log.append("synchronize")

    def flush(self):
        self.log.append("flush")

    def timer(self):
        return self

    def start(self):
        self.log.append("start")

    def stop(self):
        self.log.append("stop")

    def microseconds(self):
        return 5.0

    def normal(self, count):
        return count

    def copy(self, target, source):
        self.log.append(("copy", target, source))

    def triad(self, target, source):
        self.log.append(("triad", target, source))


class SampleTests(unittest.TestCase):
    def test_a_device_sample_flushes_before_the_first_event_and_times_one_call(self):
        device = FakeDevice()
        self.assertEqual(device_sample(device)(lambda: device.log.append("call")), 5.0)
        self.assertEqual(device.log, ["synchronize", "flush", "start", "call", "stop"])

    def test_a_wall_sample_is_of_many_calls_and_one_synchronisation_at_the_end(self):
        device, clock = FakeDevice(), iter([1_000, 201_000])
        self.assertEqual(wall_sample(device, 100, lambda: next(clock))(lambda: device.log.append("call")), 2.0)
        self.assertEqual(device.log, ["synchronize", *["call"] * 100, "synchronize"])

    def test_arms_take_turns_on_the_copies(self):
        seen, rotation = [], Rotation(3)
        first, second = rotation.of(lambda i: seen.append(("first", i))), rotation.of(lambda i: seen.append(("second", i)))
        for call in (first, second, first, second):
            call()
        self.assertEqual(seen, [("first", 0), ("second", 1), ("first", 2), ("second", 0)])

    def test_copies_exceed_the_cache_twice_but_are_not_endless(self):
        self.assertEqual(copies_beyond(100, 50), 1)
        self.assertEqual(copies_beyond(99, 50), 2)
        self.assertEqual(copies_beyond(10, 50), 10)
        self.assertEqual(copies_beyond(1, 1000), 24)

    def test_a_probe_moves_as_many_bytes_as_asked(self):
        for triad, elements, moved in ((True, 84, 1008), (False, 125, 1000)):
            device = FakeDevice()
            probe = timing.Probe(device, 1000, triad, 0)
            probe.call()
            self.assertEqual(probe.bytes, moved)
            self.assertEqual(device.log, [("triad" if triad else "copy", elements, elements)])
