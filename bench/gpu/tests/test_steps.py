import json
import pathlib
import shutil
import subprocess
import tempfile
import unittest

STEPS = pathlib.Path(__file__).parents[1] / "steps.bash"
BASE = ("bash", "mkdir", "grep", "tail", "head", "cat", "cp", "find", "tar", "xz", "sed", "wc", "rm", "python3")
NATIVE = "unpacked/tests/runtimes/linux-x64/native/libauxcore.so"
PASSED = "1: Example 1, 9.0, driver 13000; image: {image} 13.0, sm_80\n100% tests passed, 0 tests failed out of 1\n"


class StepsTests(unittest.TestCase):
    """What the steps make of their tools' answers, with tools that answer as a test wants."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        places = {name: str(self.folder / name) for name in (
            "unpacked", "rows", "scratch", "results", "nvcc_build", "clang_build", "ptx", "logs", "archive", "library")}
        self.environment = places | {
            "PATH": f"{self.folder}/bin:{self.folder}/base", "device": "torch", "commit": "abc", "STEP_NOTE": str(self.folder / "note"),
            "STEP_SECONDS": "30"}
        (self.folder / "base").mkdir()  # no other tool is found, whatever this machine has
        for tool in filter(shutil.which, BASE):
            (self.folder / "base" / tool).symlink_to(shutil.which(tool))

    def tool(self, name, script, folder="bin"):
        path = self.folder / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def file(self, name, text=""):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run_step(self, name):
        done = subprocess.run(
            [shutil.which("bash"), STEPS, name], env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=30,
            stdin=subprocess.DEVNULL)
        return done.returncode, done.stdout

    def note(self):
        return (self.folder / "note").read_text(encoding="utf-8").strip()

    def test_ptxas_takes_every_image_for_both_architectures(self):
        for name in ("ema", "other"):
            self.file(f"ptx/{name}.ptx")
        self.tool("ptxas", 'echo "$2" >>"$scratch/asked"; while (($#)); do if [[ $1 == -o ]]; then : >"$2"; fi; shift; done')
        self.assertEqual(self.run_step("ptxas_check")[0], 0)
        asked = (self.folder / "scratch/asked").read_text(encoding="utf-8").split()
        self.assertEqual(asked, ["-arch=sm_80", "-arch=sm_90"] * 2)
        self.assertEqual(self.note(), "4 images")

    def test_ptx_that_ptxas_refuses_fails(self):
        self.file("ptx/ema.ptx")
        self.tool("ptxas", "echo no such instruction; exit 255")
        self.assertEqual(self.run_step("ptxas_check")[0], 255)

    def test_device_tests_pass_by_passing(self):
        self.file("nvcc_build/library/libauxcore.so")
        self.tool("ctest", f"echo '{PASSED.format(image='nvcc')}'")
        self.assertEqual(self.run_step("ctest_nvcc")[0], 0)
        self.assertIn("image: nvcc 13.0", self.note())

    def test_device_tests_that_skip_or_take_another_image_fail(self):
        self.file("nvcc_build/library/libauxcore.so")
        for output, why in (
            (PASSED.format(image="nvcc") + "1/1 Test #1: library.abi.device ...***Skipped", "tests were skipped"),
            (PASSED.format(image="clang"), "the device code was not that of nvcc"),
            ("image: nvcc", "no test ran"),
        ):
            self.tool("ctest", f"echo '{output}'")
            self.assertEqual(self.run_step("ctest_nvcc")[0], 1)
            self.assertEqual(self.note(), why)
        self.tool("ctest", "exit 8")
        self.assertEqual(self.run_step("ctest_nvcc")[0], 1)
        self.assertEqual(self.note(), "ctest: exit code 8")

    def test_the_library_that_was_carried_takes_the_place_of_the_one_built_here(self):
        self.file("nvcc_build/library/libauxcore.so")
        self.file("unpacked/native/libauxcore.so")
        self.tool("ctest", f"echo \"preloaded: $LD_PRELOAD; $*\"; echo '{PASSED.format(image='clang')}'")
        status, output = self.run_step("ctest_clang")
        self.assertEqual(status, 0)
        self.assertIn(f"preloaded: {self.folder}/unpacked/native/libauxcore.so; --test-dir {self.folder}/nvcc_build -L device", output)

    def test_without_an_archive_the_tests_that_clang_built_run(self):
        self.file("clang_build/library/libauxcore.so")
        self.tool("ctest", f"echo \"preloaded: $LD_PRELOAD; $*\"; echo '{PASSED.format(image='clang')}'")
        status, output = self.run_step("ctest_clang")
        self.assertEqual(status, 0)
        self.assertIn(f"preloaded: ; --test-dir {self.folder}/clang_build", output)

    def test_a_sanitizer_watches_every_device_test_and_fails_by_what_it_found(self):
        self.file("nvcc_build/library/libauxcore.so")
        tests = json.dumps({"tests": [{"command": ["/one", "x"]}, {"command": ["/two"]}, {"name": "not built"}]})
        self.tool("ctest", f"echo '{tests}'")
        self.tool("compute-sanitizer", 'echo "$*"; [[ $* != *"$(cat "$scratch/bad")" ]] || exit 9')
        for bad, expected, seen in (("/none", 0, "/two"), ("/two", 9, "/two"), ("/one", 9, "/one")):
            self.file("scratch/bad", bad)
            status, output = self.run_step("racecheck")
            self.assertEqual(status, expected)
            self.assertEqual(output.splitlines()[-1], f"--tool racecheck --report-api-errors no --error-exitcode 9 {seen}")
        self.tool("ctest", """echo '{"tests": []}'""")
        self.assertEqual(self.run_step("memcheck")[0], 1)
        self.assertEqual(self.note(), "no test labelled device was built")

    def test_dotnet_tests_run_on_the_library_that_is_timed(self):
        self.file("library", "the new one")
        self.file("unpacked/tests/misfits/libauxcore.so", "another")
        self.file("unpacked/tests/standin/libcuda.so.1")
        self.file("data/manifest.json")
        self.file(NATIVE, "the old one")
        self.tool("AuxCore.Tests", 'echo this build has no libtorch; echo "rows: $AUXCORE_GPU_ROWS"; echo "  Total: 3, Failed: 0"',
                  "unpacked/tests")
        status, output = self.run_step("dotnet_tests")
        self.assertEqual((status, self.note()), (0, "Total: 3, Failed: 0"))
        self.assertIn(f"rows: {self.folder}/rows", output)
        self.assertEqual((self.folder / NATIVE).read_text(encoding="utf-8"), "the new one")
        self.assertEqual((self.folder / "unpacked/tests/misfits/libauxcore.so").read_text(encoding="utf-8"), "another")
        self.assertTrue((self.folder / "unpacked/tests/data/manifest.json").exists())
        self.assertFalse((self.folder / "unpacked/tests/standin").exists())

    def test_dotnet_tests_that_fail_or_touch_libtorch_fail(self):
        self.file("data/manifest.json")
        self.file("library")
        self.file(NATIVE)
        self.tool("AuxCore.Tests", "echo this build has no libtorch; echo '    A.Test(of: 1) [FAIL]'; echo '      Why'; "
                  "echo 'Total: 3, Failed: 1'; exit 1", "unpacked/tests")
        status, output = self.run_step("dotnet_tests")
        self.assertEqual((status, self.note()), (1, "Total: 3, Failed: 1; A.Test(of: 1)"))
        self.assertEqual(output.splitlines()[-3:], ["    A.Test(of: 1) [FAIL]", "      Why", "Total: 3, Failed: 1"])
        self.tool("AuxCore.Tests", "echo 'Total: 3, Failed: 0'", "unpacked/tests")
        self.assertEqual(self.run_step("dotnet_tests")[0], 1)
        self.assertEqual(self.note(), "no test was skipped for want of libtorch")
        self.tool("AuxCore.Tests", "echo this build has no libtorch; echo no CUDA here: no driver", "unpacked/tests")
        self.assertEqual(self.run_step("dotnet_tests")[0], 1)
        self.assertEqual(self.note(), "tests of CUDA were skipped")
        self.tool("AuxCore.Tests", "echo this build has no libtorch; mkdir $unpacked/tests/cpu", "unpacked/tests")
        self.assertEqual(self.run_step("dotnet_tests")[0], 1)
        self.assertEqual(self.note(), "something asked for libtorch")

    def test_what_a_gpu_machine_needs_fails_there_and_is_missing_in_a_dry_run(self):
        for device, expected in (("torch", 1), ("standin", 77)):
            self.environment["device"] = device
            self.assertEqual(self.run_step("build_nvcc")[0], expected)

    def test_what_it_may_do_without_is_missing(self):
        for name, why in (
            ("unpack", "no archive, which bench/gpu/pack makes"), ("memcheck", "no compute-sanitizer"), ("counters", "no ncu"),
            ("ctest_nvcc", "no nvcc_build/library/libauxcore.so, see the steps before"),
        ):
            status, output = self.run_step(name)
            self.assertEqual((status, output.splitlines()[-1]), (77, why))

    @unittest.skipUnless(shutil.which("xz"), "no xz")
    def test_the_archive_is_unpacked_and_says_its_commit(self):
        self.file("tree/commit", "abc1234\n")
        subprocess.run(["tar", "-C", self.folder / "tree", "-cJf", self.folder / "archive", "."], check=True)
        self.assertEqual(self.run_step("unpack")[0], 0)
        self.assertEqual(self.note(), "abc1234")
