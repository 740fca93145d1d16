# SPDX-License-Identifier: Apache-2.0
"""`python -m tf_model_pool bench`: run, report, gate; docs/benchmark.md explains each."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tf_model_pool.bench.errors import BenchError, require
from tf_model_pool.cli import EXIT_INTERRUPTED, sigterm_interrupts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tf_model_pool.bench.config import Configuration, Timing
    from tf_model_pool.bench.run import Cell, Options
    from tf_model_pool.bench.wheels import Wheel

EXIT_GATE = 1
_STATE = Path(".build")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Measures how long requests take while a server replaces a model by its next version.\n\n"
        "  bench --quick               stock and patched wheel, small model; minutes\n"
        "  bench --story               the article's steps\n"
        "  bench --full                every preset, scenario and model; hours\n"
        "  bench --model DIR           on your own SavedModel\n"
        "  bench report RESULT.json    the page, pictures and summary again\n"
        "  bench throughput            requests per second in a closed loop\n"
        "  bench gate RESULT.json      for CI: counts, memory and answers\n"
        "  bench list                  models, configurations, scenarios"
    )
    commands = parser.add_subparsers(dest="bench_command", metavar="COMMAND", required=False)
    _run_arguments(parser)

    report = commands.add_parser("report", help="write the report of a result again")
    report.add_argument("result", type=Path, metavar="RESULT.json")
    report.add_argument("--output", type=Path, metavar="DIR", help="default: beside the result")
    report.add_argument("--no-png", action="store_true", help="no pictures")

    picture = commands.add_parser("picture", help="latency around an update, as SVG")
    picture.add_argument("result", type=Path, metavar="RESULT.json")
    picture.add_argument("cell", nargs="+", metavar="CONFIGURATION[=LABEL]")
    picture.add_argument("--output", type=Path, required=True, metavar="FILE.svg")

    gate = commands.add_parser("gate", help="fail on what is not noisy")
    gate.add_argument("result", type=Path, metavar="RESULT.json")
    gate.add_argument("--baseline", type=Path, metavar="RESULT.json", help="an earlier result")
    gate.add_argument("--max-ratio", type=float, metavar="R", help="of update/steady p99.9")
    gate.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds that it needs")
    gate.add_argument("--max-faults", type=float, metavar="N", help="minor faults per update")
    gate.add_argument("--max-rss-drift", type=float, default=0.05, metavar="SHARE")

    # Those of the run that it shares: what stands before the command's name counts too.
    closed = commands.add_parser(
        "throughput",
        help="requests per second in a closed loop",
        argument_default=argparse.SUPPRESS,
    )
    closed.add_argument("--model", action="append", metavar="M", help="a shape or a DIR")
    closed.add_argument("--scale", type=float, metavar="X", help="of a generated model")
    closed.add_argument("--config", action="append", metavar="C", help="as of a run")
    closed.add_argument("--batches", default="8,64", metavar="N,N", help="rows of a request")
    closed.add_argument("--threads", default="1,4", metavar="N,N", help="request threads")
    closed.add_argument("--rounds", type=int, metavar="N")
    closed.add_argument("--max-index", type=int, metavar="N", help="integer inputs lie below it")
    closed.add_argument("--quiet", action="store_true", help="no progress")
    for option in ("--stock-python", "--patched-python", "--driver", "--output", "--cache"):
        closed.add_argument(option, type=Path, help="as of a run")

    commands.add_parser("list", help="models, configurations and scenarios by name")


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to measure")
    size = what.add_mutually_exclusive_group()
    for name, text in (
        ("quick", "a few minutes on 2 cores"),
        ("story", "the article's steps one by one"),
        ("full", "everything"),
    ):
        size.add_argument(f"--{name}", dest="preset", action="store_const", const=name, help=text)
    what.add_argument("--config", action="append", metavar="C", help="preset or WHEEL:key=value,..")
    what.add_argument("--scenario", action="append", metavar="S", help="see `bench list`")
    what.add_argument("--model", action="append", metavar="M", help="a shape or a SavedModel's DIR")
    what.add_argument("--scale", type=float, metavar="X", help="of generated models")
    what.add_argument("--stock-python", type=Path, default=_STATE / "stock/bin/python")
    what.add_argument("--patched-python", type=Path, default=_STATE / "env/bin/python")
    what.add_argument("--driver", type=Path, help="swap_driver; default: the patched wheel's")
    what.add_argument("--output", type=Path, metavar="DIR", help="default: .build/bench/<time>")
    what.add_argument("--cache", type=Path, default=_STATE / "bench/models", metavar="DIR")

    load = parser.add_argument_group("requests")
    load.add_argument("--signature", default="serving_default")
    load.add_argument("--tags", default="serve", help="comma-separated (default: %(default)s)")
    load.add_argument("--recorded", action="store_true", help="the model's warm-up requests")
    load.add_argument("--batch", type=int, metavar="N", help="size of an unknown first dimension")
    load.add_argument("--unknown-dimension", type=int, default=16, metavar="N")
    load.add_argument("--max-index", type=int, metavar="N", help="integer inputs lie below it")
    load.add_argument("--rate", type=float, metavar="R", help="requests/s; default: calibrated")
    load.add_argument("--cpu-target", type=float, default=0.4, metavar="SHARE")
    load.add_argument("--arrival", choices=("poisson", "fixed"), default="poisson")
    load.add_argument("--request-threads", type=int, default=4, metavar="N")
    load.add_argument("--seed", type=int, default=1)

    how = parser.add_argument_group("how to measure")
    how.add_argument("--rounds", type=int, metavar="N")
    how.add_argument("--cycles", type=int, metavar="N", help="measured updates in a run")
    how.add_argument("--gap", type=float, metavar="S", help="quiet seconds after each update")
    how.add_argument("--period", type=float, metavar="S", help="from one update to the next")
    how.add_argument("--settle-updates", type=int, metavar="N", help="updates before measuring")
    how.add_argument("--slow-ms", type=float, metavar="MS", help="default: 2 x control p99")
    how.add_argument("--interval", type=float, metavar="S", help="of the series")
    how.add_argument("--page-cache", choices=("warm", "dropped"), default="warm")
    how.add_argument("--no-pin", action="store_true", help="let generator and server share cores")
    how.add_argument("--retries", type=int, default=2, metavar="N", help="of a disturbed run")
    how.add_argument("--max-steal", type=float, default=0.01, metavar="SHARE")
    how.add_argument("--max-foreign-cpu", type=float, default=0.04, metavar="SHARE")
    how.add_argument("--count-calls", action="store_true", help="mapping calls, with strace")
    how.add_argument("--dry-run", action="store_true", help="say what would run, and stop")
    how.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Runs one of the benchmark's commands. Raises `BenchError`."""
    if args.bench_command == "list":
        return _list()
    require("numpy")
    if args.bench_command == "report":
        return _report(args)
    if args.bench_command == "picture":
        return _picture(args)
    if args.bench_command == "gate":
        return _gate(args)
    if args.bench_command == "throughput":
        return _throughput(args)
    return _run(args)


def _list() -> int:
    from tf_model_pool.bench.config import PRESETS, SCENARIOS
    from tf_model_pool.bench.models import SHAPES

    print("models")
    for name, purpose in SHAPES.items():
        print(f"  {name:26} {purpose}")
    print("configurations (or WHEEL:key=value,... with malloc, allocator, warmup, env.NAME, and")
    print("                TensorFlow Serving's levers)")
    for configuration in PRESETS.values():
        levers = {
            field: value
            for field, value in configuration.describe()["server"].items()
            if value not in (0, False)
            and field.startswith(("num_load", "num_unload", "load_", "intra"))
        }
        text = f"malloc={configuration.malloc} allocator={configuration.allocator}"
        text += "" if configuration.warmup else " warmup=off"
        text += "".join(f" {k}={v}" for k, v in levers.items())
        text += "".join(f" env.{k}={v}" for k, v in configuration.environment)
        print(f"  {configuration.name:26} {configuration.wheel:8} {text}")
    print("scenarios")
    for scenario in SCENARIOS.values():
        print(f"  {scenario.name:26} {scenario.purpose}")
    return 0


def _report(args: argparse.Namespace) -> int:
    from tf_model_pool.bench import report, result

    found = result.read(args.result)
    beside = args.result if args.result.is_dir() else args.result.parent
    for path in report.write(found, args.output or beside, png=not args.no_png):
        print(path)
    return 0


def _picture(args: argparse.Namespace) -> int:
    from tf_model_pool.bench import picture, result

    cells = [cell.partition("=") for cell in args.cell]
    picture.write(
        result.read(args.result),
        [cell for cell, _, _ in cells],
        [label or cell for cell, _, label in cells],
        args.output,
    )
    print(args.output)
    return 0


def _gate(args: argparse.Namespace) -> int:
    from tf_model_pool.bench import gate, result

    limits = gate.Limits(
        max_ratio=args.max_ratio,
        rounds=args.rounds,
        max_faults=args.max_faults,
        rss_drift=args.max_rss_drift,
    )
    baseline = result.read(args.baseline) if args.baseline else None
    findings = gate.check(result.read(args.result), baseline, limits)
    print(gate.text(findings))
    return EXIT_GATE if any(finding.fails for finding in findings) else 0


# ---- run ----------------------------------------------------------------------------------------


def _cells(args: argparse.Namespace) -> list[Cell]:
    """Models x scenarios x configurations, as the preset or the arguments say."""
    from tf_model_pool.bench import config
    from tf_model_pool.bench.models import SHAPES
    from tf_model_pool.bench.run import Cell

    preset = args.preset
    models = args.model or (list(SHAPES) if preset == "full" else ["ctr-mix"])
    scenarios = args.scenario
    if scenarios is None:
        scenarios = {"story": ["repeated", "two-at-once"], "full": list(config.SCENARIOS)}.get(
            preset, ["repeated"]
        )
    for name in scenarios:
        if name not in config.SCENARIOS:
            raise BenchError(f"--scenario {name}; allowed: {', '.join(config.SCENARIOS)}")
    cells = []
    for model in models:
        for scenario in scenarios:
            names = args.config
            if names is None:
                wide = config.FULL if preset == "full" else config.STORY
                if preset not in ("story", "full"):
                    names = config.QUICK
                elif scenario == "repeated":
                    # The other models answer "where is the spike worst", not the whole story.
                    names = wide if model == models[0] else config.STORY_AT_ONCE
                else:
                    names = config.STORY_AT_ONCE
            for name in dict.fromkeys(names):
                label = Path(model).resolve().name if "/" in model else model
                cells.append(Cell(label, scenario, config.parse_configuration(name)))
    known: dict[str, config.Configuration] = {}
    for cell in cells:
        c = cell.configuration
        if known.setdefault(c.name, c) != c:
            raise BenchError(f"two configurations are called {c.name!r}")
        if "/" in c.name:
            raise BenchError(f"configuration {c.name!r}: give it a name without a slash: name=...")
    return cells


def _timing(args: argparse.Namespace) -> Timing:
    from tf_model_pool.bench.config import Timing

    quick = args.preset == "quick"
    standard = Timing(update=1.0, gap=1.0, cycles=4) if quick else Timing(update=1.0, cycles=6)
    return Timing(
        update=standard.update,
        gap=standard.gap if args.gap is None else args.gap,
        lead=standard.lead,
        cycles=args.cycles or standard.cycles,
        settle=standard.settle if args.settle_updates is None else args.settle_updates,
        period=args.period,
    )


def _options(args: argparse.Namespace) -> Options:
    from tf_model_pool.bench import machine
    from tf_model_pool.bench.models import SHAPES, RequestOptions, Shape, UserModel
    from tf_model_pool.bench.run import Options

    scale = args.scale or (0.1 if args.preset == "quick" else 1.0)
    what: dict[str, Shape | UserModel] = {}
    for model in args.model or SHAPES:
        if model in SHAPES:
            what[model] = Shape(model, scale, args.seed)
        elif "/" in model or Path(model).is_dir():
            what[Path(model).resolve().name] = UserModel(Path(model))
        else:
            raise BenchError(f"--model {model}: neither a directory nor one of {', '.join(SHAPES)}")
    cells = _cells(args)
    return Options(
        cells=tuple(cells),
        what=what,
        requests=RequestOptions(
            seed=args.seed,
            signature=args.signature,
            tags=tuple(args.tags.split(",")),
            batch=args.batch,
            max_index=args.max_index,
            unknown_dimension=args.unknown_dimension,
            recorded=args.recorded,
        ),
        rounds=args.rounds or (2 if args.preset == "quick" else 5),
        rate=args.rate,
        cpu_target=args.cpu_target,
        retries=args.retries,
        timing=_timing(args),
        request_threads=args.request_threads,
        arrival=args.arrival,
        seed=args.seed,
        slow_ms=args.slow_ms,
        interval_s=args.interval,
        page_cache=args.page_cache,
        pin=not args.no_pin,
        limits=machine.Limits(steal=args.max_steal, foreign=args.max_foreign_cpu),
        count_calls=args.count_calls,
        # With making the model and calibrating, five minutes in all, unless updates are long.
        budget_s=200.0 if args.preset == "quick" and args.cycles is None else None,
    )


def _environments(
    args: argparse.Namespace,
    configurations: Sequence[Configuration],
    named: Sequence[tuple[str, Path]],
) -> tuple[dict[str, Wheel], Path]:
    """The wheels that are used, by name, and the native driver.

    Everything that can be missing is looked for here, before the first minute is spent; `named`
    are options and their paths.
    """
    from tf_model_pool.bench import config, wheels

    pythons = {"stock": args.stock_python, "patched": args.patched_python}
    used = dict.fromkeys(configuration.wheel for configuration in configurations)
    paths = [*named, *((f"--{wheel}-python", pythons[wheel]) for wheel in used)]
    if args.driver is not None:
        paths.append(("--driver", args.driver))
    missing = [f"{option} {path}" for option, path in paths if not path.exists()]
    if missing:
        environments = any("-python " in line for line in missing)
        raise BenchError(
            f"these paths do not exist: {', '.join(missing)}"
            + ("; `./build.sh test` makes both environments" if environments else "")
        )
    for name in ("tqdm", "plotly", "matplotlib"):
        require(name)
    for configuration in configurations:
        config.find_malloc(configuration.malloc)
    found = {name: wheels.find_wheel(name, pythons[name]) for name in used}
    places = dict(found)
    if "patched" not in places and args.driver is None and args.patched_python.exists():
        places["patched"] = wheels.find_wheel("patched", args.patched_python)
    return found, wheels.find_driver(args.driver, places)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise BenchError(f"{option} {text}: expected whole numbers above 0, as in 8,64")
    return tuple(map(int, parts))


def _throughput(args: argparse.Namespace) -> int:
    from tf_model_pool.bench import config, throughput
    from tf_model_pool.bench.models import SHAPES, RequestOptions, Shape, UserModel
    from tf_model_pool.bench.run import Progress

    names = args.config or ["python-eager", "python-load", "python-hot", "patched"]
    configurations = [config.parse_configuration(name) for name in dict.fromkeys(names)]
    models = args.model or ["ctr-small"]
    if len(models) > 1:
        raise BenchError(f"--model {', '.join(models)}: `throughput` measures one model at a time")
    model = models[0]
    shape = model in SHAPES
    what: Shape | UserModel = Shape(model, args.scale or 1.0) if shape else UserModel(Path(model))
    found, driver = _environments(args, configurations, [] if shape else [("--model", Path(model))])
    options = throughput.Options(
        tuple(configurations),
        Path(model).resolve().name,
        what,
        RequestOptions(max_index=args.max_index),
        batches=_numbers("--batches", args.batches),
        threads=_numbers("--threads", args.threads),
        rounds=args.rounds or 5,
    )
    output = args.output or _STATE / "bench" / time.strftime("%Y%m%d-%H%M%S")
    result = throughput.measure(
        options, found, driver, output.resolve(), args.cache.resolve(), Progress(args.quiet)
    )
    print(throughput.text(result))
    print(f"\n{output / 'throughput.json'}")
    return 0


def _run(args: argparse.Namespace) -> int:
    from tf_model_pool.bench import report, tables
    from tf_model_pool.bench.models import UserModel
    from tf_model_pool.bench.result import Result
    from tf_model_pool.bench.run import Orchestrator, Progress, find_strace

    options = _options(args)
    named = [("--model", w.directory) for w in options.what.values() if isinstance(w, UserModel)]
    found, driver = _environments(args, [c.configuration for c in options.cells], named)
    if options.count_calls:
        find_strace()
    if args.dry_run:
        for cell in options.cells:
            print(f"{options.rounds} x {cell.key}")
        return 0

    output = args.output or _STATE / "bench" / time.strftime("%Y%m%d-%H%M%S")
    if (output / "result.json").exists():
        raise BenchError(f"--output {output} already holds a result; name another directory")
    orchestrator = Orchestrator(
        options,
        found,
        driver,
        output.resolve(),
        args.cache.resolve(),
        Progress(args.quiet),
    )
    with sigterm_interrupts():
        finished = orchestrator.run()
    if not any(r["valid"] for r in orchestrator.result["runs"]):
        reasons = [reason for r in orchestrator.result["runs"] for reason in r["reasons"]]
        if not finished:
            print("interrupted before the first run had ended", file=sys.stderr)
            return EXIT_INTERRUPTED
        raise BenchError(
            f"no run was valid; the first reason: {reasons[0] if reasons else 'none ran'}. "
            f"All of them are in {output / 'result.json'}"
        )
    result = Result.parse(orchestrator.result)
    written = report.write(result, output)
    print(tables.text(result))
    print(f"\n{written[0]}\n{output / 'result.json'}")
    return 0 if finished else EXIT_INTERRUPTED
