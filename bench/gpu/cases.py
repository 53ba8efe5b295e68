"""One case from its data to its rows of results.json: build, verify every arm, time it against the others."""

import gc
from dataclasses import dataclass, field
from typing import Callable

import results
from timing import Probe, Rotation, device_sample, run_rounds, wall_sample


@dataclass
class Arm:
    """One way to do the work. call(i) does it once on copy i of the data."""

    name: str
    call: Callable[[int], None]


@dataclass
class Workload:
    """What a case makes: the same data and the same work for every arm.

    ours: AuxCore's arms by suffix of the case's name, "" first; each gives a row.
    candidates: the rewritings that compete to be the best baseline.
    published: the expression that people write, if there is one.
    error(arm, i): runs the arm on fresh data in copy i; the largest error against float64, in the unit of the tolerances.
    left_out: why an arm that one might expect is not there."""

    copies: int
    cache_bytes: int
    bytes: int
    ours: dict
    candidates: list
    published: Arm | None
    error: Callable[[Arm, int], float]
    left_out: list = field(default_factory=list)
    close: Callable[[], None] = lambda: None


class Case:
    """A path's cases derive from it; build(device, context, small, baselines) -> Workload. small: data for the stand-in. baselines: make
    others' arms as well."""

    path = name = description = dtype = ""
    in_place = True
    clocks = ("device",)  # "wall" as well where many small calls are the point
    tolerance = baseline_tolerance = 1.0

    @property
    def full_name(self):
        return f"{self.path}/{self.name}"


def run_case(case, device, context, options, small=False, verify_only=False, baselines=True):
    """The rows of a case. What goes wrong with it is in them, so that the other cases still run."""
    try:
        workload = case.build(device, context, small, baselines)
    except Exception as error:  # noqa: BLE001: reported
        return [results.row(case, note=f"not prepared: {one_line(error)}")]
    try:
        return _run(case, device, workload, options, verify_only)
    finally:
        workload.close()


def _run(case, device, workload, options, verify_only):
    others = [*workload.candidates, *([workload.published] if workload.published else [])]
    errors, failures = _verify(case, workload, others)
    ours = {suffix: arm for suffix, arm in workload.ours.items() if arm.name in errors}
    baselines = [arm for arm in others if arm.name in errors]
    rows = []
    for suffix, arm in workload.ours.items():
        if arm.name in failures:
            why, error = failures[arm.name]
            rows.append(results.row(case, suffix, bytes=workload.bytes, max_error=error, note=why))
    why_not = [*workload.left_out, *(f"{arm.name}: {failures[arm.name][0]}" for arm in others if arm.name in failures)]
    note = "; ".join(why_not) or None
    if verify_only:
        return rows + [
            results.row(case, suffix, bytes=workload.bytes, max_error=errors[arm.name], verified=True, note=note)
            for suffix, arm in ours.items()]
    for clock in case.clocks if ours else ():
        timing = _time(device, workload, [*ours.values(), *baselines], clock, case.in_place, options)
        for suffix, arm in ours.items():
            rows.append(results.timed_row(
                case, suffix, clock, workload.bytes, timing, arm.name, errors[arm.name],
                [arm.name for arm in baselines if arm is not workload.published],
                workload.published.name if workload.published in baselines else None, note))
    _verify_again(case, workload, ours, rows)
    return rows


def _verify(case, workload, others):
    """Errors of the arms that are right, and (why, error) of the others. An arm that is wrong or throws is not timed."""
    errors, failures = {}, {}
    ours = list(workload.ours.values())
    for arm in [*ours, *others]:
        tolerance = case.tolerance if arm in ours else case.baseline_tolerance
        try:
            error = workload.error(arm, 0)
        except Exception as problem:  # noqa: BLE001: reported
            failures[arm.name] = (f"failed: {one_line(problem)}", None)
            continue
        if error <= tolerance:
            errors[arm.name] = error
        else:
            failures[arm.name] = (f"wrong by {error:.3g}, {tolerance:g} allowed", error)
    return errors, failures


def _verify_again(case, workload, ours, rows):
    """What was timed is checked once more at the end, on the last copy: a graph or a table might have gone stale meanwhile."""
    for suffix, arm in ours.items():
        try:
            error = workload.error(arm, workload.copies - 1)
            wrong = None if error <= case.tolerance else f"wrong by {error:.3g} after the timing, {case.tolerance:g} allowed"
        except Exception as problem:  # noqa: BLE001: reported
            error, wrong = None, f"failed after the timing: {one_line(problem)}"
        for row in rows:
            if wrong and row["case"] == case.name + suffix:
                row.update(verified=False, max_error=error, note=wrong)


def _time(device, workload, arms, clock, in_place, options):
    rotation = Rotation(workload.copies)
    calls = {arm.name: rotation.of(arm.call) for arm in arms}
    probes = {results.COPY: Probe(device, workload.bytes, False, workload.cache_bytes)}
    if in_place:
        probes[results.TRIAD] = Probe(device, workload.bytes, True, workload.cache_bytes)
    calls.update({name: probe.call for name, probe in probes.items()})
    for call in calls.values():
        for _ in range(options.warm_up_calls):
            call()
    device.synchronize()
    gc.collect()
    gc.disable()  # else garbage is collected in somebody's sample
    try:
        if clock == "wall":
            sample = wall_sample(device, options.wall_calls)
            timing = run_rounds(calls, sample, options.wall_rounds, options.wall_min_rounds, options.wall_seconds, options.seed)
        else:
            timing = run_rounds(calls, device_sample(device), options.rounds, options.min_rounds, options.seconds, options.seed)
    finally:
        gc.enable()
    timing.probe_bytes = {name: probe.bytes for name, probe in probes.items()}
    return timing


def one_line(error):
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else text[:297] + "..."
