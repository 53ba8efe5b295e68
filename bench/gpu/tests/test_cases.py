import unittest

from cases import Arm, Case, Workload, one_line, run_case
from timing import Options
from tests.test_timing import FakeDevice

OPTIONS = Options(rounds=2, min_rounds=1, seconds=0, wall_rounds=2, wall_min_rounds=1, wall_seconds=0, wall_calls=2, warm_up_calls=1)


class FakeCase(Case):
    """Arms are called by name; errors gives what the check finds, and may change between the first check and the second."""

    path, name, dtype, clocks = "ema", "fake", "f32", ("device", "wall")
    baseline_tolerance = 4.0

    def __init__(self, errors):
        self.errors, self.called, self.closed = errors, [], 0

    def build(self, device, context, small, baselines):
        def arm(name):
            return Arm(name, lambda i: self.called.append((name, i)))

        def error(arm, i):
            found = self.errors.get((arm.name, i), self.errors.get(arm.name, 0.5))
            if isinstance(found, Exception):
                raise found
            return found

        def close():
            self.closed += 1

        return Workload(
            copies=2, cache_bytes=1, bytes=24, ours={"": arm("ours"), "-graph": arm("ours, graph")},
            candidates=[arm("one"), arm("two")] if baselines else [], published=arm("plain") if baselines else None, error=error,
            left_out=["three left out: no compiler"], close=close)


def rows_of(case, **options):
    return run_case(case, FakeDevice(), None, OPTIONS, **options)


class RunCaseTests(unittest.TestCase):
    def test_each_of_our_arms_gives_a_row_for_each_clock(self):
        case = FakeCase({})
        rows = rows_of(case)
        self.assertEqual([(row["case"], row["clock"]) for row in rows],
                         [("fake", "device"), ("fake-graph", "device"), ("fake", "wall"), ("fake-graph", "wall")])
        for row in rows:
            self.assertTrue(row["verified"])
            self.assertEqual({b["name"] for b in row["baselines"]}, {"one", "two", "plain"})
            self.assertIn("three left out", row["note"])
            self.assertIsNotNone(row["bandwidth_fraction"])
        self.assertEqual(case.closed, 1)

    def test_all_copies_are_timed_by_all_arms_in_turn(self):
        case = FakeCase({})
        rows_of(case)
        self.assertEqual({i for _, i in case.called}, {0, 1})
        self.assertEqual({name for name, _ in case.called}, {"ours", "ours, graph", "one", "two", "plain"})

    def test_an_arm_that_is_wrong_or_throws_is_not_timed(self):
        case = FakeCase({"ours, graph": 1.5, "one": 4.5, "two": RuntimeError("no\nkernel")})
        rows = rows_of(case)
        wrong = [row for row in rows if not row["verified"]]
        self.assertEqual([(row["case"], row["max_error"], row["ours_us"]) for row in wrong], [("fake-graph", 1.5, None)])
        self.assertEqual(wrong[0]["note"], "wrong by 1.5, 1 allowed")
        self.assertEqual({name for name, _ in case.called}, {"ours", "plain"})
        right = [row for row in rows if row["verified"]]
        self.assertEqual([b["kind"] for b in right[0]["baselines"]], ["published"])
        self.assertIn("one: wrong by 4.5, 4 allowed; two: failed: RuntimeError: no kernel", right[0]["note"])

    def test_baselines_may_round_more_than_ours(self):
        rows = rows_of(FakeCase({"one": 3.9}))
        self.assertIn("one", {b["name"] for b in rows[0]["baselines"]})

    def test_nothing_of_ours_being_right_times_nothing(self):
        case = FakeCase({"ours": float("inf"), "ours, graph": RuntimeError("x")})
        rows = rows_of(case)
        self.assertEqual([(row["verified"], row["max_error"], row["ours_us"]) for row in rows], [(False, None, None)] * 2)
        self.assertEqual(case.called, [])

    def test_a_result_that_went_wrong_during_the_timing_is_not_verified(self):
        rows = rows_of(FakeCase({("ours", 1): 9.0}))
        self.assertEqual([row["verified"] for row in rows], [False, True, False, True])
        self.assertEqual(rows[0]["note"], "wrong by 9 after the timing, 1 allowed")

    def test_a_case_that_cannot_be_built_is_a_row_with_the_reason(self):
        class Broken(FakeCase):
            def build(self, device, context, small, baselines):
                raise MemoryError("none left")

        row, = rows_of(Broken({}))
        self.assertEqual((row["verified"], row["note"]), (False, "not prepared: MemoryError: none left"))

    def test_verifying_alone_times_nothing(self):
        case = FakeCase({"ours, graph": 2.0})
        rows = rows_of(case, verify_only=True)
        self.assertEqual([(row["case"], row["verified"]) for row in rows], [("fake-graph", False), ("fake", True)])
        self.assertEqual(case.called, [])

    def test_ours_may_run_alone(self):
        case = FakeCase({})
        rows = rows_of(case, baselines=False)
        self.assertEqual([row["baselines"] for row in rows], [[]] * 4)
        self.assertEqual({name for name, _ in case.called}, {"ours", "ours, graph"})

    def test_long_messages_become_one_short_line(self):
        self.assertEqual(one_line(ValueError("a\n  b")), "ValueError: a b")
        self.assertEqual(len(one_line(ValueError("x" * 1000))), 300)
