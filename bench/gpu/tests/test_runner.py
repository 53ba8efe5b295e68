import os
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest

RUNNER = pathlib.Path(__file__).parents[1] / "runner.bash"


class RunnerTests(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def script(self, steps, seconds=60):
        return ["bash", "-euo", "pipefail", "-c", f"source {RUNNER}; start {seconds} {self.folder}; {steps}; summary"]

    def run_steps(self, steps, seconds=60):
        done = subprocess.run(self.script(steps, seconds), capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        self.assertEqual(done.stderr, "")
        return done

    def lines(self):
        return [line.split(None, 2)[:2] for line in (self.folder / "steps.txt").read_text(encoding="utf-8").splitlines()]

    def test_a_failed_step_hides_no_later_one(self):
        done = self.run_steps("step one 1 9 bash -c 'echo why; exit 3'; step two 1 9 true; step three 1 9 false")
        self.assertEqual(self.lines(), [["one", "FAILED"], ["two", "ok"], ["three", "FAILED"], ["1", "ok,"]])
        self.assertEqual(done.returncode, 1)
        self.assertIn("exit code 3", done.stdout)
        self.assertIn("    | why", done.stdout)
        self.assertTrue(done.stdout.endswith("1 ok, 2 failed, 0 missing, 0 not run\n"))

    def test_what_a_machine_does_not_have_is_no_failure(self):
        done = self.run_steps("step one 1 9 bash -c 'echo no ncu; exit 77'")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, r"one +missing +\d+ s  no ncu\n")

    def test_a_step_leaves_a_remark_and_a_log(self):
        done = self.run_steps("step one 1 9 bash -c 'echo loud; echo 12 tests >$STEP_NOTE'")
        self.assertRegex(done.stdout, r"one +ok +\d+ s  12 tests\n")
        self.assertNotIn("loud", done.stdout)
        self.assertEqual((self.folder / "logs/one.log").read_text(encoding="utf-8"), "loud\n")

    def test_a_live_step_is_shown(self):
        done = self.run_steps("LIVE=1 step one 1 9 bash -c 'echo loud'; step two 1 9 echo quiet")
        self.assertIn("loud\n", done.stdout)
        self.assertNotIn("quiet", done.stdout)

    def test_a_step_that_hangs_is_ended_with_all_that_it_started(self):
        begin = time.monotonic()
        done = self.run_steps(f"step one 1 1 bash -c 'sleep 30 & echo $! >{self.folder}/pid; wait'; step two 1 9 true")
        self.assertLess(time.monotonic() - begin, 25)  # of the 30 that it would take
        self.assertEqual(self.lines()[:2], [["one", "FAILED"], ["two", "ok"]])
        self.assertIn("its 1 s are over", done.stdout)
        pid = (self.folder / "pid").read_text(encoding="utf-8").strip()
        self.assertFalse(running(pid))

    def test_a_step_that_does_not_want_to_end_is_killed(self):
        self.run_steps("step one 1 1 bash -c 'trap \"\" TERM; while :; do sleep 1; done'")
        self.assertEqual(self.lines()[0], ["one", "FAILED"])

    def test_steps_get_what_is_left_and_are_not_run_with_too_little(self):
        steps = "step one 1 99 bash -c 'echo $STEP_SECONDS >$STEP_NOTE'; step two 28 99 true; step three 5 99 true"
        done = self.run_steps(steps, seconds=30)
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, r"one +ok +\d+ s  2[0-7]\n")  # 30 less the grace of 3, and what a busy machine takes to get there
        self.assertEqual([line[1] for line in self.lines()[:3]], ["ok", "not", "ok"])
        self.assertRegex(done.stdout, r"two +not run: time +0 s  it takes 28 s, [12]\d are left\n")

    def test_time_is_kept_for_what_matters_more(self):
        done = self.run_steps("reserved=20; step one 8 99 true; reserved=0; step two 8 99 true", seconds=30)
        self.assertEqual([line[1] for line in self.lines()[:2]], ["not", "ok"])
        self.assertEqual(done.returncode, 0)

    def test_a_signal_ends_the_step_that_runs(self):
        steps = f"step one 1 50 bash -c 'echo $$ >{self.folder}/pid; exec sleep 50'"
        process = subprocess.Popen(self.script(steps), stdout=subprocess.DEVNULL)
        while not (self.folder / "pid").exists() or not (self.folder / "pid").read_text(encoding="utf-8"):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(20), 143)
        time.sleep(0.5)
        self.assertFalse(running((self.folder / "pid").read_text(encoding="utf-8").strip()))


def running(pid):
    return os.path.exists(f"/proc/{pid}") and " Z " not in pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
