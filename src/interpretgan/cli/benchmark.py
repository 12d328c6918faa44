"""The command `interpretgan benchmark`, and what it prints. Heavy packages are imported when it is used."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from interpretgan.cli.text import print_table
from interpretgan.errors import ConfigError, RunFolderError
from interpretgan.pipeline.numbers import parse_names

benchmark = App(name="benchmark", help="Is a diagnosis right, and what does it cost? Rivals beside it.")


@benchmark.command
def planted(
    *,
    networks: str | None = None,
    kinds: str | None = None,
    layers: str | None = None,
    seeds: str | None = None,
    held_out: int | None = None,
    held_out_seed: int | None = None,
    generator_steps: int | None = None,
    image_noise: float | None = None,
    examples: int | None = None,
    information_steps: int | None = None,
    rivals: bool = True,
    small: Annotated[bool, Parameter(negative="")] = False,
    judge: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    workers: int = 1,
    device: str = "auto",
    out: Path = Path("runs/planted"),
) -> None:
    """Make one layer of a robust network fragile, prove it by intervention, and see whether a diagnosis finds it.

    Each plant is verified without any diagnosis: natural accuracy stays, robust accuracy falls, it comes back when that
    layer is mended, and not when another one is. Those that fail are counted and left out. The others are diagnosed,
    and so they are by rivals.

    Writes a record for each network to OUT/records, the summary to OUT/planted.json, and a page to OUT/planted.md. Run
    the same command again to go on after an interruption: what has a record is not made again.

    Args:
        networks: Robust networks to plant in, a,b,c [default: all of the table, see docs/planted.md].
        kinds: Kinds of plants, a,b,c, among gate, twin, substitution, lipschitz, two, none [default: all].
        layers: Layers to plant at, a,b,c [default: those of the table, early to late].
        seeds: Seeds of the plants of the table, a,b,c [default: 0].
        held_out: Further plants, whose kinds, layers and seeds are drawn when the command runs [default: 0].
        held_out_seed: What they are drawn from; it is printed and kept [default: another one in each folder].
        generator_steps: Training steps of the generator [default: as in interpretgan diagnose].
        image_noise: Largest random noise in the images of that training, as a share of the range of pixels
            [default: as in interpretgan diagnose].
        examples: Test images that a diagnosis is made of [default: 1000; 250 with --small].
        information_steps: Training steps of the decoders, whose information loss is then a rival [default: 0].
        rivals: Whether the rivals are measured.
        small: A reduced size: seven plants in one network, fewer images.
        judge: Weights of a trained judge: FILE, or DATA=FILE where there are several data sets; may be repeated
            [default: one is trained for each data set].
        workers: Processes at a time, with a thread each; on a GPU they share it.
        device: auto (a GPU if there is one), cpu, or cuda[:k].
        out: Folder.
    """
    from interpretgan.pipeline.devices import find_device
    from interpretgan.pipeline.networks import say_to_stderr
    from interpretgan.planted.benchmark import kept_draw_seed, run_benchmark
    from interpretgan.planted.page import PAGE_FILE
    from interpretgan.planted.settings import judge_files, resolved

    if workers < 1:
        raise ConfigError(expected="workers >= 1", got=str(workers), do="try --workers 2")
    given = {
        "networks": _names(networks), "kinds": _names(kinds), "layers": _names(layers), "seeds": _numbers(seeds),
        "held_out": held_out, "generator_steps": generator_steps, "image_noise": image_noise, "examples": examples,
        "information_steps": information_steps, "rivals": rivals,
    }  # fmt: skip
    draw_seed = kept_draw_seed(out) if held_out_seed is None else held_out_seed
    settings = resolved(given, small=small, draw_seed=draw_seed)
    files, place = judge_files(judge, settings.networks), find_device(device)
    if settings.held_out:
        say_to_stderr(f"held-out plants are drawn from the seed {draw_seed}")
    _print(run_benchmark(settings, out, workers=workers, device=place, judges=files, say=say_to_stderr))
    print(f"\npage: {out / PAGE_FILE}")


@benchmark.command
def speed(
    *,
    small: Annotated[bool, Parameter(negative="")] = False,
    device: str = "auto",
    seed: int = 0,
    out: Path = Path("runs/speed"),
) -> None:
    """Measure what explanations of all layers cost, beside what others take, in turns in one run.

    The others: one generator a layer in fp32, trained to the same quality; layer sustainability; Captum's integrated
    gradients for each image and layer (extra captum); inversion of each latent by optimisation; an invertible network a
    layer (extra freia). Against the number of layers, the size of images and that of the classifier, with peak memory
    and the share of the machine's own peak.

    Writes OUT/speed.json and OUT/speed.svg. Leave the machine alone meanwhile, for half an hour on two cores; its load
    at the start is in the record. The same command goes on after the last part that a stopped run has measured, and
    measures nothing again that is in OUT/parts.

    Args:
        small: A reduced size, some minutes on one core.
        device: auto (a GPU if there is one), cpu, or cuda[:k].
        seed: Of everything random.
        out: Folder.
    """
    from interpretgan.pipeline.devices import find_device
    from interpretgan.pipeline.networks import say_to_stderr
    from interpretgan.speed.benchmark import CHART_FILE, CONTENDERS, FULL, SMALL, run_speed
    from interpretgan.speed.page import rows_of

    result = run_speed(SMALL if small else FULL, out, device=find_device(device), say=say_to_stderr, seed=seed)
    equal, ours = result["equal_quality"], result["equal_quality"]["ours"]
    alone = equal["one_by_one"]
    least = "" if alone["reached"] == len(alone["trained"]) else "at least "  # some did not reach the quality
    print(
        f"at equal quality, {len(equal['layers'])} layers: ours {ours['seconds']:.1f} s, one by one {least}"
        f"{alone['seconds']:.1f} s, {equal['speedup']:.1f}×; a step of ours at "
        f"{ours['share_of_matmul_peak']:.0%} of the {ours['precision']} peak of a matrix product, "
        f"{ours['share_of_conv_peak']:.0%} of that of a convolution\n"
    )
    print(f"seconds to explain {result['explained']} images at all layers, training included")
    print_table(("network", *(name.replace("_", " ") for name in CONTENDERS), "training"), rows_of(result))
    for error in sorted({error for case in result["cases"] for error in case["errors"].values()}):
        print(f"! left out: {error}")
    print(f"\nchart: {out / CHART_FILE}")


@benchmark.command
def page(folder: Path, *, into: Path | None = None) -> None:
    """Write the page of a finished benchmark again, from its planted.json.

    Args:
        folder: Folder of the benchmark.
        into: A Markdown page: what follows its heading "Results" is replaced, and the chart goes beside it.
    """
    from interpretgan.planted.benchmark import SCHEMA, SUMMARY_FILE
    from interpretgan.planted.page import CHART_FILE, insert, write_page
    from interpretgan.store.files import read_json

    summary = read_json(folder / SUMMARY_FILE)
    if not isinstance(summary, dict) or summary.get("schema") != SCHEMA or "questions" not in summary:
        do = "run `interpretgan benchmark planted` again"
        raise RunFolderError(
            expected=f"the summary of a benchmark in {folder / SUMMARY_FILE}", got="another file", do=do
        )
    if into is None:
        print(f"page: {write_page(summary, folder)}")
        return
    insert(summary, into, into.with_name(CHART_FILE))
    print(f"page: {into}")


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(parse_names(text))


def _numbers(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(expected="whole numbers a,b,c", got=f"'{text}'", do="e.g. --seeds 0,1,2") from None


def _print(summary: Mapping[str, Any]) -> None:
    counts = summary["counts"]
    print(
        f"{counts['planned']} networks: {counts['verified']} verified, {sum(counts['unverified'].values())} not, "
        f"{counts['unmade']} not made; {counts['diagnosed']} diagnosed, {counts['collapsed']} collapsed, "
        f"{counts['refused']} refused"
    )
    for name, found in summary["questions"].items():
        rows = []
        for score, figures in found["scores"].items():
            top, against = figures["top"], found["against"].get(score)
            if top is not None:
                ends = f"[{100 * top['low']:.0f}, {100 * top['high']:.0f}]"
                share = f"{top['right']} of {top['networks']}"
                ahead = "" if against is None else f"{100 * against['value']:+.0f}"
                rows.append((score, share, f"{100 * top['value']:.0f}", ends, ahead))
        if rows:
            print(f"\nquestion: {name}")
            print_table(("score", "planted layer on top", "%", "interval", "ours minus it"), rows)
