"""The text of a model card, from a manifest and its evaluations: no files, no figures of its own."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import msgspec

from common.bundle import Manifest, ManifestSpan
from common.paired_difference import model_name, why_it_ships
from training.judging.class_counts import too_few
from training.judging.evaluation.figures import METRICS
from training.judging.evaluation.result import Figure, Group, ModelEval, Part
from training.models import BASELINES
from training.reporting.narrative import (
    findings,
    first,
    folds_text,
    interval_text,
    metric_name,
    notes,
    number,
    span_text,
    without_bars,
)

NAME = "model_card_v1"
WIDTH = 120
PICTURES = {
    "reliability": "Reliability: what was said against what was seen, with 95 % intervals",
    "precision_recall": "Precision and recall, with every baseline and the base rate",
    "percentiles": "Left: volatility by percentile with τ. Right: rate of spikes by percentile of the probability",
    "over_time": "Probability over time; shaded where a spike followed",
    "by_regime": "PR-AUC by how lively the time just before was; black: base rate",
}
CALIBRATION, FAILURES = ("reliability", "percentiles"), ("over_time", "by_regime")
ROW_METRICS = tuple(name for name in METRICS if not name.startswith("budget_"))
FOLD_METRICS = ("base_rate", "pr_auc", "pr_auc_lift", "roc_auc", "brier", "brier_skill", "log_loss", "ece", "f1")
GROUPS = ("day", "regime")
FAR_OFF = 0.1  # of the mean probability from the rate of spikes
REASONS = {
    "late_old_sequence": "messages older than one before",
    "unused_jumped_back": "ticks older than the one before",
    "unused_repeated": "repeated ticks",
    "not_warm": "a feature window that is not whole",
    "not_finite": "a feature that is no number",
    "label_crosses_gap": "a gap in the time the label looks at",
    "label_past_end": "the recording ends in that time",
    "thinned": "another row stands for the period",
}
FORMS = {
    "logistic": "Logistic regression (L2, no class weights) on logs of the features",
    "har": "HAR logit (Corsi 2009): logistic regression on the logs of realized volatility over three windows",
    "har_returns": "HAR logit (Corsi 2009) for one window of volatility: logistic regression on the logs of it and of "
    "two shorter absolute returns (Forsberg and Ghysels 2007)",
    "ewma": "Logistic regression on the log of the exponentially weighted volatility",
    "zscore": "Logistic regression on the log of the current window's volatility",
    "xgboost": "Gradient-boosted trees (XGBoost)",
}


class Evaluated(msgspec.Struct, frozen=True):
    """An evaluation that the card shows: its heading, and the stem of its files."""

    title: str
    stem: str
    pictures: tuple[str, ...]  # those that the evaluation has: none of ranks where one class has too few rows


def brief(evaluation: ModelEval) -> ModelEval:
    """The evaluation without what the card does not say: a tenth of its size."""
    last = len(evaluation.parts) - 1
    return msgspec.structs.replace(
        evaluation,
        parts=tuple(_brief(part, whole=place == last) for place, part in enumerate(evaluation.parts)),
    )


def _brief(part: Part, whole: bool) -> Part:
    models = {
        name: msgspec.structs.replace(
            one,
            curve=(),
            reliability=one.reliability if whole else (),
            metrics=one.metrics if whole else {key: one.metrics[key] for key in ("pr_auc",) if key in one.metrics},
        )
        for name, one in part.models.items()
    }
    return msgspec.structs.replace(
        part,
        models=models,
        differences=part.differences if whole else (),
        block_lengths=part.block_lengths if whole else (),
        groupings=tuple(one for one in part.groupings if one.by in GROUPS) if whole else (),
    )


def render(manifest: Manifest, evaluations: Sequence[tuple[Evaluated, ModelEval]] = ()) -> str:
    """The card as Markdown."""
    sections = [
        f"# Model card: {manifest.name} {manifest.version}",
        f"Generated from `models/{manifest.name}/{manifest.version}/manifest.json` and the evaluations in "
        f"[{NAME}/]({NAME}/) by `training/reporting/model_card.py`; a test compares. What each metric is: "
        "[model_eval.md](model_eval.md).",
        _use(manifest),
        _model(manifest),
        _data(manifest),
        *(_metrics(one, evaluation) for one, evaluation in evaluations),
        *([] if _covered(manifest, evaluations) else [_in_training(manifest)]),
        *([_calibration(manifest, evaluations), _failures(evaluations)] if evaluations else []),
        _limits(manifest, evaluations),
        _ethics(),
        _again(manifest, evaluations),
    ]
    return "\n".join(map(_wrapped, "\n\n".join(one for one in sections if one).splitlines())) + "\n"


def _wrapped(line: str) -> str:
    """Long lines of prose broken as the other pages are; tables, pictures and headings stay as they are."""
    if len(line) <= WIDTH or line.startswith(("|", "!", "#")):
        return line
    return textwrap.fill(
        line, WIDTH, subsequent_indent="  " if line.startswith("- ") else "", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _use(manifest: Manifest) -> str:
    label = manifest.label
    return f"""## Intended use

Says how likely the realized volatility over the next {label.horizon_s:.0f} s reaches τ = {label.threshold:.6g}
({label.threshold * 1e4:.3g} basis points), for people who watch a market's liveliness or build on the service, and as a
yardstick for models that follow.

**Not for:** deciding a trade, its size, or a limit on risk, on its own; another product, venue or horizon than those
below; saying which way a price will go: the model is blind to direction. **No trade is placed by this software**, and
nothing here says that one should be."""


def _model(manifest: Manifest) -> str:
    schema, inputs = manifest.schema, manifest.inputs
    chosen = {name: value for name, value in manifest.parameters.items() if name not in _OF_THE_RUN}
    lines = [
        f"{FORMS.get(manifest.kind, manifest.kind)}, schema `{schema.name}` (hash `{schema.hash}`).",
        f"- Looks at {len(inputs)} of {len(schema.features)} features: {', '.join(f'`{one}`' for one in inputs)}."
        if inputs
        else "- Absolute prices and the direction of returns are not looked at.",
        f"- Chosen on validation rows: {', '.join(f'{name} {number(value)}' for name, value in chosen.items())}."
        if chosen
        else "",
        f"- Transforms and calibration are inside the ONNX graph (opset {manifest.opset}, SHA-256 "
        f"`{manifest.model_sha256[:12]}…`), float64 in; it differs from the trained form by at most "
        f"{manifest.parity_max_abs_error:.2g} on {manifest.rows['rows']:,} rows.",
        f"- A spike is announced at a probability of {manifest.decision_threshold:.6g}, chosen on validation rows.",
    ]
    return "## Model\n\n" + "\n".join(one for one in lines if one) + _ablation(manifest)


_OF_THE_RUN = (
    "sample_period_s", "final_share", "folds", "validation_folds", "trials", "threshold_rows", "embargo_s",
    "bootstrap_block_s", "bootstrap_resamples", "seed",
)  # fmt: skip


def _ablation(manifest: Manifest) -> str:
    if not manifest.ablation:
        return ""
    lines = ["", "", "What each group of features is worth, on validation rows of the training part:", ""]
    lines += ["| left out | log loss | PR-AUC | kept |", "|---|---|---|---|"]
    lines += [
        f"| {one.group}{f' ({len(one.columns)})' if one.columns else ''} | {one.log_loss:.4f} | {one.pr_auc:.4f} | "
        f"{'yes' if one.kept else 'no'} |"
        for one in manifest.ablation
    ]
    return "\n".join(lines)


def _data(manifest: Manifest) -> str:
    rows, train, test = manifest.rows, manifest.training, manifest.evaluation
    dropped = [f"| {meaning} | {rows[reason]:,} |" for reason, meaning in REASONS.items() if rows.get(reason)]
    others = [f"| {reason} | {count:,} |" for reason, count in rows.items() if count and reason.startswith("dead_")]
    tau = manifest.parameters.get("threshold_rows", 0)
    part = (
        f"the last {tau:,.0f} training rows ([why](decisions/0004-spike-threshold.md))" if tau else "the training part"
    )
    lines = [
        "## Data",
        "",
        f"{rows['ticks']:,} updates in {len(manifest.data)} file{'' if len(manifest.data) == 1 else 's'} with "
        f"{rows['gaps']:,} gaps (SHA-256 `{manifest.data_sha256[:12]}…`; the data is not shipped). One row each "
        f"{manifest.parameters.get('sample_period_s', 1):g} s at most. [data_card.md](data_card.md) says more of it.",
        "",
        "| rows | count |",
        "|---|---|",
        f"| read | {rows['ticks']:,} |",
        *dropped,
        *others,
        f"| **usable** | **{rows['rows']:,}** |",
        f"| purged and embargoed before the final part | {rows['purged'] + rows['embargoed']:,} |",
        f"| **training**, {_span(train)} | **{train.rows:,}** |",
        f"| **final part**, {_span(test)} | **{test.rows:,}** |",
        "",
        f"τ is the {manifest.label.quantile:.2f} quantile of {part}. Against it {train.positives:,} training rows "
        f"({train.positives / train.rows:.1%}) are spikes, and {test.positives:,} of the final part "
        f"({test.positives / test.rows:.1%}).",
    ]
    return "\n".join(lines)


def _span(span: ManifestSpan) -> str:
    return span_text(span.start_ns, span.end_ns)


def _metrics(one: Evaluated, evaluation: ModelEval) -> str:
    part, names = evaluation.headline, list(evaluation.headline.models)
    given = evaluation.settings
    lines = [
        f"## Metrics: {one.title}",
        "",
        *([f"**{first(evaluation)}.**", ""] if first(evaluation) else []),
        f"{span_text(part.start_ns, part.end_ns)}: {part.rows:,} rows, base rate {part.positives / part.rows:.4f}, "
        f"{part.episodes} spike episodes in {part.observed_hours:.2f} h. Brackets: 95 %, {given.resamples:,} draws of "
        f"{part.blocks:,} blocks of {given.block_s:g} s.",
        "",
        f"| | {' | '.join(map(model_name, names))} |",
        "|---" * (len(names) + 1) + "|",
        *(
            f"| {metric_name(metric)} | {' | '.join(_cell(part.models[name].metrics.get(metric)) for name in names)} |"
            for metric in ROW_METRICS
            if any(metric in part.models[name].metrics for name in names)
        ),
        "",
        *(f"- {line}." for line in [*findings(evaluation), *notes(evaluation)]),
    ]
    if pictures := _pictures(one, evaluation, "precision_recall"):
        lines += ["", *pictures]
    means = evaluation.walk_forward
    if means is not None:
        lines += [
            "",
            f"Means over {folds_text(means)} before it, each fitted, calibrated and decided on what came before:",
            "",
            f"| | {' | '.join(map(model_name, means.models))} |",
            "|---" * (len(means.models) + 1) + "|",
            *(
                f"| {metric_name(metric)} | {' | '.join(_cell(one.get(metric)) for one in means.models.values())} |"
                for metric in FOLD_METRICS
                if any(metric in one for one in means.models.values())
            ),
        ]
    return "\n".join(lines)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    if figure.low is None or figure.high is None:
        return number(figure.value)
    return f"{number(figure.value)} [{number(figure.low)}, {number(figure.high)}]"


def _pictures(one: Evaluated, evaluation: ModelEval, *names: str) -> list[str]:
    captions = _captions(evaluation)
    return [
        f"![{captions[name]}](img/{NAME}/{one.stem}_{name}.png)"
        for name in names
        if name in one.pictures and name in captions
    ]


def _captions(evaluation: ModelEval) -> dict[str, str]:
    """Of the pictures that such rows allow: one of an evaluation before may lie in the same folder."""
    part, captions = evaluation.headline, dict(PICTURES)
    if too_few(part.rows, part.positives):
        captions["percentiles"] = "Volatility by percentile with τ"
        del captions["precision_recall"]
    regimes = next((one for one in part.groupings if one.by == "regime"), None)
    if regimes is None or all(too_few(one.rows, one.positives) for one in regimes.groups):
        del captions["by_regime"]
    else:
        captions["by_regime"] = ". ".join([captions["by_regime"], *without_bars(regimes)])
    return captions


def _in_training(manifest: Manifest) -> str:
    """What the manifest itself says, for bundles that carry it."""
    names = list(manifest.metrics)
    shown = [one for one in FOLD_METRICS if any(one in manifest.metrics[name] for name in names)]
    return "\n".join(
        [
            "## As the manifest has it",
            "",
            "On the final part, as the bundle was made (a baseline's name is its kind):",
            "",
            f"| | {' | '.join(names)} |",
            "|---" * (len(names) + 1) + "|",
            *(f"| {metric_name(one)} | {' | '.join(_plain(manifest, name, one) for name in names)} |" for one in shown),
        ]
    )


def _covered(manifest: Manifest, evaluations: Sequence[tuple[Evaluated, ModelEval]]) -> bool:
    return any(set(manifest.metrics) <= set(evaluation.headline.models) for _, evaluation in evaluations)


def _plain(manifest: Manifest, name: str, metric: str) -> str:
    value = manifest.metrics[name].get(metric)
    return "–" if value is None else number(value)


def _calibration(manifest: Manifest, evaluations: Sequence[tuple[Evaluated, ModelEval]]) -> str:
    used = manifest.calibration
    how = (
        f"Its logit goes through {used.slope:.4g} · logit {used.intercept:+.4g}, fitted on validation rows."
        if used is not None and (used.slope, used.intercept) != (1.0, 0.0)
        else "No calibration was added to what the model says."
    )
    lines = ["## Calibration", "", how]
    for one, evaluation in evaluations:
        mine = evaluation.headline.models[evaluation.primary].metrics
        lines += [
            "",
            f"**{_capital(one.title)}.** ECE {_cell(mine['ece'])}, in bins of equal mass "
            f"{_cell(mine['ece_equal_mass'])}; it said {number(mine['mean_probability'].value)} on average, and "
            f"{number(mine['base_rate'].value)} came.",
            "",
            *_pictures(one, evaluation, *CALIBRATION),
        ]
    return "\n".join(lines)


def _failures(evaluations: Sequence[tuple[Evaluated, ModelEval]]) -> str:
    lines = ["## Failure cases"]
    for one, evaluation in evaluations:
        lines += ["", f"**{_capital(one.title)}**", "", *(f"- {text}." for text in failures(evaluation)), ""]
        lines += _pictures(one, evaluation, *FAILURES)
    return "\n".join(lines)


def failures(evaluation: ModelEval) -> list[str]:
    """Where and how it goes wrong, a sentence each."""
    part, primary = evaluation.headline, evaluation.primary
    model = part.models[primary]
    metrics, confusion = model.metrics, model.confusion
    alerts = confusion.true_positives + confusion.false_positives
    found = []
    if part.episodes:
        missed = round((1 - metrics["episodes_caught"].value) * part.episodes)
        early = round(metrics["episodes_caught_in_advance"].value * part.episodes)
        found.append(
            f"Spike episodes at the decision threshold: {part.episodes} in all, {early} caught in advance, "
            f"{part.episodes - missed - early} only once the spike could be seen, {missed} not at all"
        )
    if alerts:
        false = metrics["false_alarms_per_hour"]
        found.append(
            f"Of {alerts:,} rows with an alert, {confusion.false_positives:,} had no spike after them; false alarms an "
            f"hour: {number(false.value)}, 95 % {interval_text(false)}"
        )
    else:
        found.append("At the decision threshold it never raised an alert here")
    said, came = metrics["mean_probability"].value, metrics["base_rate"].value
    if abs(said - came) > FAR_OFF:
        found.append(f"It said {number(said)} on average, and {number(came)} came")
    found += _weak_groups(part, primary)
    return found


def _weak_groups(part: Part, primary: str) -> list[str]:
    lines = []
    for grouping in part.groupings:
        weak = [group.name for group in grouping.groups if _is_weak(group, primary)]
        if weak:
            which = "all of them" if len(weak) == len(grouping.groups) else ", ".join(weak)
            lines.append(
                f"Worse than climatology (Brier skill ≤ 0) by {grouping.by}, {len(weak)} of {len(grouping.groups)}: "
                f"{which}"
            )
    return lines


def _is_weak(group: Group, primary: str) -> bool:
    skill = group.models[primary].get("brier_skill")
    return skill is not None and skill.value <= 0


def _limits(manifest: Manifest, evaluations: Sequence[tuple[Evaluated, ModelEval]]) -> str:
    products = sorted({one for _, evaluation in evaluations for one in evaluation.data.products})
    whose = f"{', '.join(products)} from one exchange" if products else "One product from one exchange"
    hours = max((evaluation.headline.observed_hours for _, evaluation in evaluations), default=0.0)
    seen = f", and at most {hours:.1f} h to be judged by" if hours else ""
    return f"""## Limits

- {whose}: {manifest.rows["ticks"]:,} updates, trained on {_span(manifest.training)}{seen}.
- τ is an absolute level of that time. In a livelier market most minutes are above it, in a quieter one none is, and
  its probabilities follow only so far. Retraining moves it.
{_against_har(manifest)}- Rows lie a second apart and share most of their label; their number says little about how
  much is known. The intervals draw whole blocks of time, and cannot speak of markets that were not recorded.
- Times are those of the recordings: the recorder's clock where it was not the exchange's.
- **What the numbers do not mean.** PR-AUC depends on the base rate and compares only on the same rows. A lift over the
  base rate is not a profit: costs, latency and the market's answer to one's own orders are in none of these figures. An
  interval that holds zero means that nothing was shown, not that two models are equal. Scores near 1 on this problem,
  as others publish them, mean leakage."""


def _against_har(manifest: Manifest) -> str:
    """A line on what the lead on HAR decided; "" where none was taken."""
    why = why_it_ships(manifest.kind, manifest.walk_forward)
    return f"- **HAR ships unless a model is shown to beat it.** {why}.\n" if why else ""


def _ethics() -> str:
    return """## Ethical considerations

- Public market data only: no person is in it, nor can one be told from it.
- A forecast of volatility can feed automatic trading, which can feed volatility. Whoever acts on it at size changes
  what it was trained on; the card's figures then no longer hold.
- It is right on average, not each time; people who act on a single alert should see its history beside it. Show the
  base rate with every probability.
- What it was trained on may not be redistributed, so others cannot repeat the training bit by bit without obtaining
  the recordings themselves. The code, the seed and the hashes are given so that they can."""


def _again(manifest: Manifest, evaluations: Sequence[tuple[Evaluated, ModelEval]]) -> str:
    seed = manifest.parameters.get("seed", 0)
    files = "; ".join(
        f"{one.title.lower()}: {', '.join(evaluation.data.files)}"
        for one, evaluation in evaluations
        if 0 < len(evaluation.data.files) <= 3
    )
    # Kinds beside the baselines and its own were compared: the run chose among all.
    chose = set(manifest.metrics) - {*BASELINES, manifest.kind}
    train = (
        f"volcast train --name {manifest.name} --version {manifest.version} --model-type "
        f"{'auto' if chose else manifest.kind} --seed {seed:g} --force"
    )
    evaluate = f"volcast evaluate FILE… --bundle models/{manifest.name}/{manifest.version}"
    return f"""## How to reproduce

- Data: {len(manifest.data)} files, SHA-256 `{manifest.data_sha256}`{f" ({files})" if files else ""}; where they are
  looked for: `VOLCAST_DATA_DIR`.
- Model: `{train}`;
  the same data, code and seed give the same bytes.
- The final part is the training run's own evaluation. `{evaluate}`
  judges the bundle on every row behind its training part, of which there are some more.
- This page: `make docs`."""
