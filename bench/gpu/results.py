"""results.json of a GPU run, in the schema of bench/Output/ResultsFile.cs, and the same as a table in Markdown.

Beyond that schema: machine.gpu, dry_run, and in each row clock, copy_fraction and note."""

import json
import math
import os
import pathlib

from quartiles import Quartiles

TRIAD, COPY = "triad", "copy"
NOT_RUN = "not run: time"

QUARTILES = {"median": float, "q1": float, "q3": float}
NUMBER = (float, None)
SCHEMA = {
    "machine": {
        "os": str, "cpu": str, "cores": int, "ram_gb": float, "dotnet": (str, None), "vector_bits": int, "libtorch": (str, None),
        "gpu": {
            "name": str, "compute_capability": str, "multiprocessors": int, "memory_gb": float, "driver_cuda": str,
            "device_image": str, "cuda": (str, None), "triton": (str, None),
        },
    },
    "commit": str,
    "date": str,
    "dry_run": bool,
    "results": [{
        "path": str, "case": str, "backend": str, "dtype": str, "threads": int, "ours_us": (QUARTILES, None),
        "baselines": [{"name": str, "kind": str, "us": QUARTILES, "speedup": QUARTILES}],
        "bytes": int, "gb_per_s": NUMBER, "bandwidth_fraction": NUMBER, "max_error": NUMBER, "verified": bool,
        "clock": (str, None), "copy_fraction": NUMBER, "note": (str, None),
    }],
}


def row(case, suffix="", **known):
    """A row for a case; what is not known is null."""
    empty = dict.fromkeys(SCHEMA["results"][0]) | {
        "path": case.path, "case": case.name + suffix, "backend": "cuda", "dtype": case.dtype, "threads": 1,
        "baselines": [], "bytes": 0, "verified": False,
    }
    if known.get("max_error") is not None and not math.isfinite(known["max_error"]):
        known["max_error"] = None  # JSON has no infinity; the note has it
    return empty | known


def timed_row(case, suffix, clock, moved, timing, ours, error, candidates, published, note):
    """A row with figures: timing holds the samples of the arm `ours`, which moved so many bytes, of baselines and of the probes."""
    time = timing.time(ours)

    def share(probe):
        if probe not in timing.samples:
            return None
        return timing.ratio(probe, ours).median * moved / timing.probe_bytes[probe]

    return row(
        case, suffix,
        ours_us=time._asdict(), baselines=baselines(timing, ours, candidates, published), bytes=moved,
        gb_per_s=moved / time.median / 1e3, bandwidth_fraction=share(TRIAD if case.in_place else COPY),
        copy_fraction=share(COPY), max_error=error, verified=True, clock=clock, note=note,
    )


def baselines(timing, ours, candidates, published):
    """The best candidate, then the published expression, then the others by their medians."""
    def entry(name, kind):
        return {"name": name, "kind": kind, "us": timing.time(name)._asdict(), "speedup": timing.ratio(name, ours)._asdict()}

    best, *others = [*sorted(candidates, key=lambda name: timing.time(name).median), None]
    entries = [entry(best, "best")] if best else []
    entries += [entry(published, "published")] if published else []
    return entries + [entry(name, "other") for name in others if name]


def read_rows(folder):
    """Rows that other programs left, such as the .NET tests for ILGPU: every file *.json in the folder holds a list of them."""
    found = []
    for path in sorted(pathlib.Path(folder).glob("*.json")):
        for given in json.loads(path.read_text(encoding="utf-8")):
            complete = dict.fromkeys(SCHEMA["results"][0]) | given
            problems = mismatches(complete, SCHEMA["results"][0], path.name)
            if problems:
                raise ValueError("; ".join(problems))
            found.append(complete)
    return found


def write(folder, document):
    """results.json and results.md in the folder, whole or not at all. A dry run's figures stay out of bench/results."""
    folder = pathlib.Path(folder).resolve()
    problems = mismatches(document, SCHEMA)
    if problems:
        raise ValueError("; ".join(problems))
    if document["dry_run"] and ("bench", "results") in zip(folder.parts, folder.parts[1:]):
        raise ValueError(f"{folder} is for figures, and a dry run has none")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("results.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n"), ("results.md", table(document))):
        temporary = folder / (name + ".tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / name)


def mismatches(value, schema, place="results.json"):
    """Where a value differs from the schema: names, their order aside, and types."""
    if isinstance(schema, tuple):
        return [] if value is None else mismatches(value, schema[0], place)
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{place} is no list"]
        return [problem for i, item in enumerate(value) for problem in mismatches(item, schema[0], f"{place}[{i}]")]
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{place} is no object"]
        problems = [f"{place}.{name} is missing" for name in schema if name not in value]
        problems += [f"{place}.{name} is not in the schema" for name in value if name not in schema]
        return problems + [
            problem for name in schema if name in value for problem in mismatches(value[name], schema[name], f"{place}.{name}")]
    if schema is float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        return [] if fits and math.isfinite(value) else [f"{place} is {value!r}, not a finite number"]
    return [] if type(value) is schema else [f"{place} is {value!r}, not {schema.__name__}"]


def table(document):
    """The results as a table in Markdown."""
    gpu, machine = document["machine"]["gpu"], document["machine"]
    software = [f"driver for CUDA {gpu['driver_cuda']}", f"image: {gpu['device_image']}"]
    software += [f"{name} {version}" for name, version in (("PyTorch", machine["libtorch"]), ("Triton", gpu["triton"])) if version]
    lines = [f"# {gpu['name']}", ""]
    if document["dry_run"]:
        lines += ["**A dry run: the stand-in driver in place of a GPU. None of these times means anything.**", ""]
    lines += [
        f"{document['date'][:10]}, commit {document['commit']}; {', '.join(software)}; {machine['cpu']}, {machine['cores']} cores.", "",
        "| case | backend | clock | ours | best baseline | speed-up [q1–q3] | over published | GB/s | of triad or copy | error | ok |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(result) for result in document["results"]]
    lines += [
        "", "speed-up: the baseline's time over ours, median [quartiles] of the rounds. device: events around one call, the L2 cache "
        "flushed before it. wall: 100 calls and one final synchronisation, a call. error: the largest against float64."]
    notes = {}
    for result in document["results"]:
        if result["note"]:
            notes.setdefault(result["note"], {})[f"{result['path']}/{result['case']}"] = None
    lines += ["", *(f"- {', '.join(cases)}: {note}" for note, cases in notes.items())] if notes else []
    return "\n".join(lines) + "\n"


def _line(result):
    best = next((b for b in result["baselines"] if b["kind"] == "best"), None)
    published = next((b for b in result["baselines"] if b["kind"] == "published"), None)
    cells = [
        f"{result['path']}/{result['case']}", result["backend"], result["clock"] or "–",
        duration(result["ours_us"]["median"]) if result["ours_us"] else "–",
        f"{duration(best['us']['median'])} {best['name']}" if best else "–",
        ratio(best["speedup"]) if best else "–",
        f"{digits(published['speedup']['median'])}x" if published else "–",
        digits(result["gb_per_s"]) if result["gb_per_s"] is not None else "–",
        f"{result['bandwidth_fraction']:.0%}" if result["bandwidth_fraction"] is not None else "–",
        f"{result['max_error']:.2f}" if result["max_error"] is not None else "–",
        "yes" if result["verified"] else "NO",
    ]
    return "| " + " | ".join(cells) + " |"


def ratio(speedup):
    quartiles = Quartiles(**speedup)
    return f"{digits(quartiles.median)}x [{digits(quartiles.q1)}–{digits(quartiles.q3)}]"


def duration(microseconds):
    """In us or ms."""
    return f"{digits(microseconds / 1e3)} ms" if microseconds >= 999.5 else f"{digits(microseconds)} us"


def digits(value):
    """Three digits, or all that stand before the point."""
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.9995 else 3
    return f"{value:.{decimals}f}"
