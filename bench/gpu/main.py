"""Times AuxCore's CUDA kernels against PyTorch's, in one process, on the same memory and stream. bench/gpu/run calls it; alone:

    python3 bench/gpu/main.py --library artifacts/native/cuda/library/libauxcore.so --out FOLDER [FILTER]"""

import argparse
import datetime
import os
import pathlib
import re
import sys
import time
from dataclasses import replace

import results
from auxcore import Library
from cases import run_case
from paths import CASES
from timing import Options

LEAST_SECONDS = 10  # a case is not begun with less left
DRY = Options(rounds=3, min_rounds=2, seconds=0.2, wall_rounds=3, wall_min_rounds=2, wall_seconds=0.2, wall_calls=3, warm_up_calls=1)


def main(arguments=None):
    options = parse(arguments)
    cases = [case for case in CASES if options.filter.lower() in case.full_name.lower()]
    if not cases:
        print(f"no case has '{options.filter}' in its name; there are {', '.join(case.full_name for case in CASES)}")
        return 2
    deadline = time.monotonic() + options.seconds
    library = Library(options.library)
    with library.open() as context:
        device = open_device(options.device, context)
        document = {
            "machine": machine(device, context, library), "commit": options.commit,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(), "dry_run": device.is_standin, "results": [],
        }
        out = pathlib.Path(options.out) / slug(device.name)
        dry = "; a dry run: no time below means anything" if device.is_standin else ""
        print(f"{device.name}; image: {library.device_image}{dry}", flush=True)
        wrong = check_zero_copy(device, context)
        for position, case in enumerate(cases):
            document["results"] += one_case(case, device, context, deadline, len(cases) - position, options)
            results.write(out, document)  # after each case: what is measured stays, whatever comes
        foreign = take_over_rows(document, options.rows)
        results.write(out, document)
    verified = sum(result["verified"] for result in document["results"])
    not_run = sum(result["note"] == results.NOT_RUN for result in document["results"])
    failed = len(document["results"]) - verified - not_run
    print(f"{verified} results verified, {failed} failed, {not_run} not run; zero copy: {wrong or 'right'}")
    print(f"results: {out}")
    return 1 if failed or wrong or foreign else 0


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filter", nargs="?", default="", help="only cases with this in path/name")
    parser.add_argument("--library", required=True, help="libauxcore.so")
    parser.add_argument("--out", required=True, help="folder; results go into DEVICE/results.json and results.md in it")
    parser.add_argument("--device", choices=["torch", "standin"], default="torch", help="standin: a dry run, whose times mean nothing")
    parser.add_argument("--seconds", type=float, default=200, help="for everything; cases share what is left")
    parser.add_argument("--commit", default="unknown")
    parser.add_argument("--rows", help="folder with rows of other programs, to be taken over")
    parser.add_argument("--verify", action="store_true", help="check all arms against float64, time nothing")
    parser.add_argument("--ours", action="store_true", help="without baselines, as a profiler wants it")
    return parser.parse_args(arguments)


def open_device(kind, context):
    if kind == "standin":
        from device_standin import StandinDevice

        return StandinDevice(context)
    from device_torch import TorchDevice

    return TorchDevice()


def check_zero_copy(device, context):
    import zero_copy

    try:
        wrong = zero_copy.check(device, context)
    except Exception as error:  # noqa: BLE001: reported; the cases still run
        wrong = f"{type(error).__name__}: {error}"
    print(f"zero copy: {wrong or 'right'}", flush=True)
    return wrong


def take_over_rows(document, folder):
    """None, or why other programs' rows were not taken."""
    if not folder or not os.path.isdir(folder):
        return None
    try:
        document["results"] += results.read_rows(folder)
        return None
    except ValueError as error:
        print(f"rows of other programs were not taken: {error}", flush=True)
        return str(error)


def one_case(case, device, context, deadline, cases_left, options):
    left = deadline - time.monotonic()
    if left < LEAST_SECONDS:
        rows = [results.row(case, note=results.NOT_RUN)]
    else:
        settings = DRY if device.is_standin else limited(Options(), left / cases_left)
        device.compile_seconds = min(30, left / 2)
        rows = run_case(case, device, context, settings, small=device.is_standin, verify_only=options.verify,
                        baselines=not options.ours)
        device.release()
    for row in rows:
        print(summary(row), flush=True)
    return rows


def limited(options, seconds):
    """So that rounds take about half of a case's share; the other half is for data, compilers and checks."""
    share = seconds / 2
    return replace(options, seconds=min(options.seconds, share / 2), wall_seconds=min(options.wall_seconds, share / 2))


def summary(row):
    text = f"{row['path']}/{row['case']}"
    if row["ours_us"]:
        text += f" {row['clock']}: {results.duration(row['ours_us']['median'])}"
        best = next((b for b in row["baselines"] if b["kind"] == "best"), None)
        text += f", {results.ratio(best['speedup'])} over {best['name']}" if best else ""
    if row["max_error"] is not None:
        text += f", error {row['max_error']:.2f}"
    text += "" if row["verified"] else ", NOT VERIFIED"
    return text + (f" ({row['note']})" if row["note"] else "")


def machine(device, context, library):
    described, versions = context.describe(), device.versions()
    return {
        "os": os_name(), "cpu": cpu_name(), "cores": len(os.sched_getaffinity(0)),
        "ram_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1), "dotnet": None, "vector_bits": 0,
        "libtorch": versions["pytorch"],
        "gpu": {
            "name": device.name, "compute_capability": f"{described.compute_major}.{described.compute_minor}",
            "multiprocessors": described.multiprocessors, "memory_gb": round(described.memory_bytes / 1e9, 1),
            "driver_cuda": f"{described.driver_version // 1000}.{described.driver_version % 1000 // 10}",
            "device_image": library.device_image, "cuda": versions["cuda"], "triton": versions["triton"],
        },
    }


def os_name():
    found = field("/etc/os-release", r'^PRETTY_NAME="?([^"\n]*)')
    return found or " ".join(os.uname()[i] for i in (0, 2))


def cpu_name():
    return field("/proc/cpuinfo", r"^model name\s*:\s*(.*)") or os.uname().machine


def field(path, pattern):
    try:
        match = re.search(pattern, pathlib.Path(path).read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return match and match.group(1).strip()


def slug(name):
    """A folder's name: nvidia-h100-80gb-hbm3."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    sys.exit(main())
