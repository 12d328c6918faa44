"""`interpretgan models`: what comes with the package."""

from __future__ import annotations

from interpretgan.cli.text import print_table


def models() -> None:
    """The architectures that --model takes, and the pretrained classifiers with their accuracy.

    A pretrained classifier is taken with its name and --weights pretrained, e.g.
    `interpretgan diagnose --data mnist --model lenet5-avg-trades --weights pretrained`.

    The first "at eps" is the size that a classifier was trained at, the second that of the attacks. "warnings" counts
    the reasons to distrust these accuracies, which `interpretgan evaluate` prints.
    """
    from interpretgan.attacks import fraction
    from interpretgan.models import MODELS, card_names, read_card

    known = [(name, f"{spec.parameters:,}", ", ".join(spec.pools), spec.source) for name, spec in MODELS.items()]
    print_table(("architecture", "parameters", "--pool", "source"), known)
    print(
        "\nParameters are for 10 classes and width 1; the first pooling is the default. Any wrn-DEPTH-WIDENING works.\n"
        "Public models come with their weights: hf:OWNER/NAME, timm:NAME, torchvision:NAME, hf:./FOLDER, FILE.pt2.\n"
    )
    rows = []
    for card in map(read_card, card_names()):
        figures = [card.figure(name) for name in ("natural", "pgd", "autoattack")]
        shown = ["-" if figure is None else f"{figure['value']:.1%}" for figure in figures]
        measured = ["-", "-", "-"]
        if card.figures is not None and figures[0] is not None:
            attacked = fraction(card.figures["threat_model"]["eps"])
            measured = [attacked, f"{figures[0]['examples']:,}", str(len(card.figures["flags"]))]
        trained = "-" if card.eps is None else fraction(card.eps)
        rows.append((card.name, card.data["name"], card.objective["name"], trained, *shown, *measured))
    head = ("pretrained", "data", "objective", "at eps", "natural", "PGD", "AutoAttack", "at eps", "images", "warnings")
    print_table(head, rows)
