"""Writes the card of the shipped model from its manifest and its evaluations, so that no figure can be stale.

python -m training.reporting.model_card                                   write docs/model_card_v1.md again (make docs)
python -m training.reporting.model_card models/volatility/3 \\
    --evaluation "The final part of the training data=reports/train/model_eval.json" \\
    --evaluation "A recording never touched before=reports/model_eval.json"
                                                                   take up a bundle and evaluations of it

What is taken up is kept in docs/model_card_v1/ (the evaluations without what the card does not say) and
docs/img/model_card_v1/ (their pictures), so that the card is made again without any data.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from common.bundle import Manifest, read_bundle
from common.errors import InputError, VolcastError
from training.judging.evaluation.result import ModelEval, encode
from training.reporting.evaluation_report import PICTURES_FOLDER, read_evaluation, write_whole
from training.reporting.model_card_page import NAME, PICTURES, Evaluated, brief, render

ROOT = Path(__file__).resolve().parents[2]
CARD_FILE = "card.json"


class Card(msgspec.Struct, frozen=True):
    bundle: str  # path from the root
    evaluations: tuple[Evaluated, ...]


def docs(root: Path = ROOT) -> Path:
    return root / "docs"


def kept(root: Path = ROOT) -> tuple[Manifest, list[tuple[Evaluated, ModelEval]]]:
    """What was taken up last. Raises InputError where a file is missing or damaged."""
    folder = docs(root) / NAME
    try:
        card = msgspec.json.decode((folder / CARD_FILE).read_bytes(), type=Card)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"card {folder / CARD_FILE}: {getattr(error, 'strerror', None) or error}") from None
    manifest, _ = read_bundle(root / card.bundle)
    return manifest, [(one, read_evaluation(folder / f"{one.stem}.json")) for one in card.evaluations]


def take_up(bundle: Path, evaluations: Sequence[tuple[str, Path]], root: Path = ROOT) -> None:
    """Keeps the evaluations (title, model_eval.json) and their pictures in docs/, in place of those before.

    Raises InputError for an evaluation that cannot be read or is of another model.
    """
    manifest, _ = read_bundle(bundle)
    named = [
        (Evaluated(title, _stem(title), tuple(_drawn(path))), path, read_evaluation(path))
        for title, path in evaluations
    ]
    for one, path, evaluation in named:
        if evaluation.model is not None and evaluation.model.model_sha256 != manifest.model_sha256:
            raise InputError(f"evaluation {path}: is of another model than {bundle}")
        if evaluation.primary not in (manifest.kind, "given"):
            raise InputError(f"evaluation {path}: is about {evaluation.primary}, the bundle is of kind {manifest.kind}")
        if len([other for other, _, _ in named if other.stem == one.stem]) > 1:
            raise InputError(f"evaluation {path}: two are titled {one.title!r}")
    card = Card(f"models/{manifest.name}/{manifest.version}", tuple(one for one, _, _ in named))
    folder, pictures = docs(root) / NAME, docs(root) / "img" / NAME
    files = {folder / f"{one.stem}.json": encode(brief(evaluation)) for one, _, evaluation in named}
    for one, path, _ in named:
        for name, source in _drawn(path).items():
            files[pictures / f"{one.stem}_{name}.png"] = source.read_bytes()
    files[folder / CARD_FILE] = msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n"
    for path, data in files.items():
        write_whole(path, data)
    for old in {*folder.glob("*"), *pictures.glob("*")} - files.keys():
        old.unlink()


def _drawn(evaluation: Path) -> dict[str, Path]:
    """Its pictures: in a folder beside it, or, of a training run, beside it."""
    found: dict[str, Path] = {}
    for name in PICTURES:
        for folder in (evaluation.parent / PICTURES_FOLDER, evaluation.parent):
            if (source := folder / f"{name}.png").is_file():
                found.setdefault(name, source)
    return found


def _stem(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")[:40]


def write(root: Path = ROOT) -> Path:
    """Writes the card from what is kept."""
    path = docs(root) / f"{NAME}.md"
    write_whole(path, render(*kept(root)).encode())
    return path


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path, file_okay=False), required=False)
@click.option(
    "--evaluation", "evaluations", multiple=True, metavar="TITLE=FILE", help="model_eval.json, with a heading."
)
def main(bundle: Path | None, evaluations: tuple[str, ...]) -> None:
    try:
        if bundle is not None:
            take_up(bundle, [_named(one) for one in evaluations])
        elif evaluations:
            raise InputError("--evaluation: name the bundle that it is of, too")
        click.echo(f"wrote {write().relative_to(ROOT)}")
    except VolcastError as error:
        click.echo(f"model card: {error}", err=True)
        sys.exit(error.exit_code)


def _named(text: str) -> tuple[str, Path]:
    title, equals, path = text.partition("=")
    if not equals or not title.strip():
        raise InputError(f"--evaluation: expected TITLE=FILE, got {text!r}")
    return title.strip(), Path(path)


if __name__ == "__main__":
    main()
