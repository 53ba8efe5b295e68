"""Needs a built library and the stand-in driver: bench/gpu/run --dry-run sets AUXCORE_LIBRARY and LD_LIBRARY_PATH."""

import contextlib
import io
import json
import math
import os
import pathlib
import struct
import tempfile
import unittest

import device_standin
import main
import zero_copy
from auxcore import STATUS, AuxCoreError, EmaTensors, Library
from cases import Arm, run_case
from device_standin import StandinDevice, Vector, narrowed, pack, ulp32, unpack
from paths import CASES
from paths.ema import EmaCase, vit_s16

LIBRARY = os.environ.get("AUXCORE_LIBRARY")


class NumberTests(unittest.TestCase):
    def test_bfloat16_rounds_to_nearest_even(self):
        ties, above = {0x3F808000: 0x3F80, 0x3F818000: 0x3F82}, {0x3F808001: 0x3F81}
        overflow, nan = {0x7F7FFFFF: 0x7F80}, {0x7F800001: 0x7FC0}
        for bits, expected in (ties | above | overflow | nan).items():
            self.assertEqual(narrowed(bits), expected)
        self.assertEqual(unpack(pack([1.0, -2.5], "bfloat16"), "bfloat16"), (1.0, -2.5))
        self.assertEqual(unpack(pack([1.0, -2.5], "float16"), "float16"), (1.0, -2.5))

    def test_units_in_the_last_place_are_those_of_float32(self):
        for value in (1.0, -1.0, 1.9999999, 3e38, 1.17549435e-38, 1e-40, 1.4e-45):
            bits, = struct.unpack("<I", struct.pack("<f", abs(value)))
            near, = struct.unpack("<f", struct.pack("<I", bits))
            above, = struct.unpack("<f", struct.pack("<I", bits + 1))
            self.assertEqual(ulp32(near), above - near)
        self.assertEqual(ulp32(0.0), 2.0 ** -149)

    def test_errors_are_in_units_of_the_scale_and_nan_is_never_right(self):
        ulps = StandinDevice.ulps
        self.assertEqual(ulps(None, Vector([1.0, 2.0 + 2.0 ** -22]), Vector([1.0, 2.0]), Vector([1.0, 2.0])), 1.0)
        for wrong in (math.nan, math.inf):
            self.assertEqual(ulps(None, Vector([wrong, 1.0]), Vector([1.0, 1.0]), Vector([1.0, 1.0])), math.inf)


class CatalogueTests(unittest.TestCase):
    def test_names_are_unique_and_cases_say_what_they_are(self):
        self.assertEqual(len({case.full_name for case in CASES}), len(CASES))
        self.assertTrue(all(case.description and case.dtype and case.path for case in CASES))

    def test_vit_s_has_the_parameters_of_the_model(self):
        self.assertEqual((len(vit_s16()), sum(vit_s16())), (152, 22_050_664))

    def test_decays_that_the_check_does_not_know_are_refused(self):
        for decay in (0.5, 1.0, -0.1):
            with self.assertRaises(ValueError):
                EmaCase("x", "x", [1], decays=(decay,))


@unittest.skipUnless(LIBRARY, "AUXCORE_LIBRARY is not set")
class StandinTests(unittest.TestCase):
    def setUp(self):
        self.context = Library(LIBRARY).open()
        self.addCleanup(self.context.close)
        self.device = StandinDevice(self.context)

    def test_errors_of_the_library_are_exceptions_with_its_message(self):
        with self.assertRaises(AuxCoreError) as caught:
            self.context.ema(0)
        self.assertEqual(caught.exception.status, STATUS["AUXCORE_E_ARGUMENT"])
        self.assertIn("average_count is 0", str(caught.exception))
        table = self.context.ema(1)
        call = table.caller(lambda: 0, [2.0], None)
        with self.assertRaisesRegex(AuxCoreError, "decay"):
            call()

    def test_zero_copy_is_right_and_would_be_found_wrong(self):
        self.assertIsNone(zero_copy.check(self.device, self.context))
        early = StandinDevice(self.context)
        early.copy = lambda target, source: None  # as if the update had run before the copy
        self.assertIn("wrong by", zero_copy.check(early, self.context))

    def test_every_case_is_right_in_every_arm(self):
        for case in CASES:
            with self.subTest(case.full_name):
                for row in run_case(case, self.device, self.context, main.DRY, small=True):
                    self.assertTrue(row["verified"], row["note"])
                    self.assertEqual([b["kind"] for b in row["baselines"]], ["best", "published"])

    def test_a_wrong_arm_is_found(self):
        for case in CASES:
            workload = case.build(self.device, self.context, True, True)
            twice = Arm("twice", lambda i: (workload.ours[""].call(i), workload.ours[""].call(i)))  # noqa: B023: called at once
            self.assertLessEqual(workload.error(workload.ours[""], workload.copies - 1), case.tolerance)
            self.assertGreater(workload.error(Arm("does nothing", lambda i: None), 0), case.tolerance)
            if case.in_place:  # what is not, gives the same twice
                self.assertGreater(workload.error(twice, 0), case.tolerance)
            workload.close()

    def test_a_graph_replays_what_was_captured(self):
        source, target = self.device.normal(5), self.device.normal(5)
        replay = self.device.capture(lambda: self.device.copy(target, source))
        self.assertNotEqual(self.device.float64([target]), self.device.float64([source]))
        replay()
        self.device.synchronize()
        self.assertEqual(self.device.float64([target]), self.device.float64([source]))

    def test_the_driver_must_be_the_stand_in(self):
        class Other:
            pass

        loaded = device_standin.c.CDLL
        self.addCleanup(setattr, device_standin.c, "CDLL", loaded)
        device_standin.c.CDLL = lambda name: Other()
        with self.assertRaisesRegex(RuntimeError, "not the stand-in"):
            StandinDevice(self.context)


@unittest.skipUnless(LIBRARY, "AUXCORE_LIBRARY is not set")
class MainTests(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.out = pathlib.Path(folder.name)

    def run_main(self, *arguments):
        with contextlib.redirect_stdout(io.StringIO()) as self.output:
            return main.main(["--library", LIBRARY, "--out", str(self.out), "--device", "standin", *arguments])

    def test_a_dry_run_says_so_and_takes_over_rows(self):
        rows = self.out / "rows"
        rows.mkdir()
        example = json.loads((pathlib.Path(__file__).parent / "results-example.json").read_text(encoding="utf-8"))["results"][0]
        (rows / "ilgpu.json").write_text(json.dumps([example | {"backend": "ilgpu"}]), encoding="utf-8")
        self.assertEqual(self.run_main("--rows", str(rows), "--commit", "abc", "one-100m"), 0)
        written = json.loads((self.out / "auxcore-stand-in-0" / "results.json").read_text(encoding="utf-8"))
        self.assertEqual((written["dry_run"], written["commit"]), (True, "abc"))
        self.assertEqual([row["backend"] for row in written["results"]], ["cuda", "ilgpu"])

    def test_rows_that_do_not_fit_fail_the_run_and_spoil_nothing(self):
        rows = self.out / "rows"
        rows.mkdir()
        for text in ('[{"path": "ema"}]', "no JSON"):
            (rows / "wrong.json").write_text(text, encoding="utf-8")
            self.assertEqual(self.run_main("--rows", str(rows), "one-100m"), 1)
            self.assertIn("rows of other programs were not taken", self.output.getvalue())
            written = json.loads((self.out / "auxcore-stand-in-0" / "results.json").read_text(encoding="utf-8"))
            self.assertEqual([row["verified"] for row in written["results"]], [True])

    def test_an_unknown_case_is_bad_usage(self):
        self.assertEqual(self.run_main("no-such-case"), 2)

    def test_verifying_alone_gives_no_figures(self):
        self.assertEqual(self.run_main("--verify", "vit-s"), 0)
        written = json.loads((self.out / "auxcore-stand-in-0" / "results.json").read_text(encoding="utf-8"))
        self.assertTrue(all(row["verified"] and row["ours_us"] is None for row in written["results"]))

    def test_cases_for_which_no_time_is_left_are_reported_and_no_failure(self):
        self.assertEqual(self.run_main("--seconds", "0", "vit-s-22m"), 0)
        self.assertIn("1 not run", self.output.getvalue())
        written = json.loads((self.out / "auxcore-stand-in-0" / "results.json").read_text(encoding="utf-8"))
        self.assertEqual([(row["note"], row["verified"]) for row in written["results"]], [("not run: time", False)])

    def test_what_is_not_verified_fails_the_run(self):
        tolerance = EmaCase.tolerance
        self.addCleanup(setattr, EmaCase, "tolerance", tolerance)
        EmaCase.tolerance = 1e-9
        self.assertEqual(self.run_main("one-100m"), 1)
