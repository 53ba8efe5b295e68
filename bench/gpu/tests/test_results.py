import json
import pathlib
import tempfile
import unittest

import results
from cases import Case
from timing import PairedResult

GOLDEN = pathlib.Path(__file__).parent / "results-example.json"


class SomeCase(Case):
    path, name, dtype = "ema", "vit-s-22m", "f32"


def example_row():
    timing = PairedResult(
        {"AuxCore": [1.0, 2.0, 4.0], "slow": [8.0, 8.0, 8.0], "fast": [2.0, 2.0, 2.0], "plain": [4.0, 4.0, 4.0], "triad": [2.0, 4.0, 8.0],
         "copy": [1.0, 2.0, 4.0]},
        {"triad": 3000, "copy": 6000})
    return results.timed_row(SomeCase(), "-graph", "device", 3000, timing, "AuxCore", 0.5, ["slow", "fast"], "plain", None)


def document(*rows, dry_run=True):
    gpu = {
        "name": "Example 1", "compute_capability": "9.0", "multiprocessors": 4, "memory_gb": 1.0, "driver_cuda": "13.0",
        "device_image": "an image", "cuda": None, "triton": None,
    }
    machine = {
        "os": "Linux", "cpu": "A processor", "cores": 2, "ram_gb": 25.3, "dotnet": None, "vector_bits": 0, "libtorch": None, "gpu": gpu,
    }
    return {"machine": machine, "commit": "abc1234", "date": "2026-01-02T03:04:05+00:00", "dry_run": dry_run, "results": list(rows)}


class RowTests(unittest.TestCase):
    def test_figures_are_medians_of_rounds(self):
        row = example_row()
        self.assertEqual(row["case"], "vit-s-22m-graph")
        self.assertEqual(row["ours_us"], {"median": 2.0, "q1": 1.5, "q3": 3.0})
        self.assertEqual(row["gb_per_s"], 1.5)  # 3,000 bytes in 2 us
        self.assertEqual(row["bandwidth_fraction"], 2.0)  # the triad took twice as long in each round, for as many bytes
        self.assertEqual(row["copy_fraction"], 0.5)  # the copy took as long, for twice the bytes

    def test_the_fastest_candidate_is_the_best_baseline(self):
        entries = example_row()["baselines"]
        self.assertEqual([(e["name"], e["kind"]) for e in entries], [("fast", "best"), ("plain", "published"), ("slow", "other")])
        self.assertEqual(entries[0]["speedup"], {"median": 1.0, "q1": 0.75, "q3": 1.5})

    def test_what_was_not_measured_is_null(self):
        row = results.row(SomeCase(), note="not run: time")
        self.assertEqual([row[name] for name in ("ours_us", "gb_per_s", "max_error", "clock")], [None] * 4)
        self.assertFalse(row["verified"])
        self.assertIsNone(results.row(SomeCase(), max_error=float("inf"))["max_error"])


class FileTests(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_what_is_written_is_the_committed_example(self):
        """tests/Bench/ResultsFileTests.cs reads the same file."""
        results.write(self.folder, document(example_row(), results.row(SomeCase(), note="not run: time")))
        self.assertEqual((self.folder / "results.json").read_text(encoding="utf-8"), GOLDEN.read_text(encoding="utf-8"))
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["results.json", "results.md"])

    def test_a_dry_run_does_not_get_into_the_committed_results(self):
        for place in ("bench/results/x", "bench/results"):
            with self.assertRaisesRegex(ValueError, "a dry run has none"):
                results.write(self.folder / place, document())
            self.assertFalse((self.folder / place).exists())
        results.write(self.folder / "bench/results/x", document(dry_run=False))

    def test_what_does_not_fit_the_schema_is_not_written(self):
        wrong = [
            (lambda d: d.pop("commit"), "results.json.commit is missing"),
            (lambda d: d.update(extra=1), "results.json.extra is not in the schema"),
            (lambda d: d["machine"].update(cores="2"), "machine.cores is '2', not int"),
            (lambda d: d["machine"].update(gpu=None), "machine.gpu is no object"),
            (lambda d: d["results"][0].update(gb_per_s=float("nan")), r"results\[0\].gb_per_s is nan, not a finite number"),
            (lambda d: d["results"][0].update(bytes=True), r"results\[0\].bytes is True, not int"),
            (lambda d: d["results"][0]["baselines"][0].pop("speedup"), r"baselines\[0\].speedup is missing"),
            (lambda d: d.update(results={}), "results.json.results is no list"),
            (lambda d: d.update(dry_run=1), "dry_run is 1, not bool"),
        ]
        for damage, message in wrong:
            damaged = json.loads(json.dumps(document(example_row())))
            damage(damaged)
            with self.subTest(message), self.assertRaisesRegex(ValueError, message):
                results.write(self.folder / "new", damaged)
        self.assertFalse((self.folder / "new").exists())

    def test_rows_of_other_programs_are_taken_over_and_checked(self):
        given = {name: example_row()[name] for name in results.SCHEMA["results"][0] if name not in ("clock", "copy_fraction", "note")}
        (self.folder / "ilgpu.json").write_text(json.dumps([given | {"backend": "ilgpu"}]), encoding="utf-8")
        (self.folder / "other.txt").write_text("not read", encoding="utf-8")
        row, = results.read_rows(self.folder)
        self.assertEqual((row["backend"], row["clock"], row["note"]), ("ilgpu", None, None))
        (self.folder / "wrong.json").write_text(json.dumps([{"path": "ema"}]), encoding="utf-8")
        with self.assertRaisesRegex(ValueError, r"wrong.json.case is None"):
            results.read_rows(self.folder)


class TableTests(unittest.TestCase):
    def test_the_table_has_a_line_a_row_and_says_that_a_run_was_dry(self):
        text = results.table(document(example_row(), results.row(SomeCase(), note="not run: time")))
        lines = [line for line in text.splitlines() if line.startswith("| ema/")]
        self.assertEqual(
            lines[0],
            "| ema/vit-s-22m-graph | cuda | device | 2.00 us | 2.00 us fast | 1.00x [0.750–1.50] | 2.00x | 1.50 | 200% | 0.50 | yes |")
        self.assertEqual(lines[1], "| ema/vit-s-22m | cuda | – | – | – | – | – | – | – | – | NO |")
        self.assertIn("None of these times means anything", text)
        self.assertIn("- ema/vit-s-22m: not run: time", text)
        self.assertNotIn("means anything", results.table(document(example_row(), dry_run=False)))

    def test_numbers_have_three_digits(self):
        self.assertEqual([results.digits(x) for x in (0.1234, 1, 9.994, 9.996, 99.94, 99.96, 3012)],
                         ["0.123", "1.00", "9.99", "10.0", "99.9", "100", "3012"])
        self.assertEqual([results.duration(x) for x in (7.25, 999.4, 999.6, 12_345)], ["7.25 us", "999 us", "1.00 ms", "12.3 ms"])
