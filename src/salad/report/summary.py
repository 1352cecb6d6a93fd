"""The report of a run: `report.json`, `report.html`, a table for the terminal, and the sentences that they share.

Every sentence is made from the numbers. A part that was not run is None, and the sentence says so.
Differences are called "within error" where they are smaller than the 95 % interval of two independent
means; all models are measured on the same documents, so this errs on the careful side.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from rich.console import Console
from rich.table import Column, Table

from salad.files import write_json, write_text
from salad.report.page import render
from salad.report.values import (
    ACCURACIES,
    CONTROLS,
    EXPOSURES,
    STAGES,
    bought_by_domain,
    duration,
    heard_of,
    heard_title,
    interval,
    nats,
    percent,
    pick,
    points,
    rate,
    stage_two_beside,
    task_rows,
)

__all__ = ["print_report", "write_report"]

Z95 = 1.96


def write_report(report: dict[str, Any], clips: list[dict[str, Any]], out_dir: Path) -> None:
    """Write `out_dir/report.json` (all figures) and `out_dir/report.html` (one self-contained page), atomically.

    Any figure may be None or absent: the page says that it was not measured. NaN and infinity become null.
    Raises SaladError where a clip's audio cannot be decoded.
    """
    report = plain(report)
    page = render(report, plain(clips), headline(report), captions(report))
    out_dir = Path(out_dir)
    write_json(out_dir / "report.json", report)
    write_text(out_dir / "report.html", page)


def plain(value: Any) -> Any:
    """The same value in JSON's own types: paths as text, NumPy numbers as numbers, NaN and infinity as None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def measured_stages(report: dict[str, Any]) -> list[str]:
    """Keys of the stages whose M was measured, in the order of the run."""
    return [key for key in STAGES if pick(report, f"misalignment.{key}.all") is not None]


def compare(report: dict[str, Any], first: str, second: str) -> str:
    """`below`, `above` or `within error of`: M of `first` against M of `second` (both measured)."""
    a, b = (report["misalignment"][key] for key in (first, second))
    error = Z95 * math.hypot(a.get("se") or 0.0, b.get("se") or 0.0)
    if abs(a["all"] - b["all"]) <= error:
        return "within error of"
    return "below" if a["all"] < b["all"] else "above"


def number(report: dict[str, Any], path: str, show: Any) -> Markup:
    """The figure at `path` as text for people, with the exact value beside it for machines."""
    value = pick(report, path)
    return Markup('<data value="{}" data-key="{}">{}</data>').format(repr(value), path, show(value))


def headline(report: dict[str, Any]) -> Markup:
    """One sentence: what was heard, M before and after with its controls, accuracy on speech and on text."""
    parts = [_headline_heard(report), _headline_misalignment(report), _headline_accuracy(report)]
    return Markup("; ").join(parts) + "."


def _headline_heard(report: dict[str, Any]) -> Markup:
    path, share = heard_of(report)
    if share is None:
        return Markup("What was heard was not measured")
    shown = number(report, path, percent)
    if path == "recovered":  # of a report from before `heard`
        if share <= 0:
            return Markup("SALAD recovered none of the speech information ({})").format(shown)
        return Markup("SALAD recovered {} of the speech information").format(shown)
    if around := interval(report["heard"]):
        shown += f" {around}"
    if "cascade" not in (pick(report, "heard.formula") or ""):
        return Markup("M is {} under that of who cannot hear (1 − M / M_ref; no cascade was measured)").format(shown)
    if share <= 0:
        return Markup("SALAD heard none of what a transcript tells ({})").format(shown)
    return Markup("SALAD heard {} of what a recogniser's transcript tells").format(shown)


def _headline_misalignment(report: dict[str, Any]) -> Markup:
    stages = measured_stages(report)
    if not stages:
        return Markup("misalignment was not measured")

    def m(key: str) -> Markup:
        return number(report, f"misalignment.{key}.all", nats)

    first, last = stages[0], stages[-1]
    controls = [
        Markup("{} {}").format(name, m(key))
        for key, name in CONTROLS.items()
        if pick(report, f"misalignment.{key}.all") is not None
    ]
    against = Markup(" ({})").format(Markup(", ").join(controls)) if controls else ""
    if first == last or pick(report, f"misalignment.{first}.stage2"):  # not of the same documents
        return Markup("misalignment is {} nats per token ({}){}").format(m(last), STAGES[last], against)
    verb = {"below": "fell", "above": "rose", "within error of": "did not clearly change,"}[
        compare(report, last, first)
    ]
    return Markup("misalignment {} from {} ({}) to {} nats per token after {}{}").format(
        verb, m(first), STAGES[first], m(last), STAGES[last], against
    )


def _headline_accuracy(report: dict[str, Any]) -> Markup:
    def a(key: str) -> Markup:
        around = interval(pick(report, f"accuracy.{key}"))
        return Markup("{}{}").format(number(report, f"accuracy.{key}.value", percent), around and f" {around}")

    if pick(report, "accuracy.speech_adapted.value") is None:
        if task_rows(report):
            return Markup("accuracy is told task by task below")
        return Markup("accuracy on speech was not scored")
    items = number(report, "accuracy.n", str) + " " if pick(report, "accuracy.n") is not None else Markup("")
    sentence = Markup("hearing the context of {}multiple-choice items it is right in {}").format(
        items, a("speech_adapted")
    )
    others = [
        Markup("{} {}").format(a(key), words)
        for key, words in (("text_base", "for the text LLM that reads it"), ("cascade", "for the cascade"))
        if pick(report, f"accuracy.{key}.value") is not None
    ]
    if others:
        sentence += Markup(", against {}").format(Markup(" and ").join(others))
    if pick(report, "accuracy.chance") is not None:
        sentence += Markup(" (chance {})").format(number(report, "accuracy.chance", percent))
    return sentence


def captions(report: dict[str, Any]) -> dict[str, str]:
    """One sentence for each figure of the page that says what is seen; "" where there is nothing to see."""
    return {
        "stages": _say_stages(report),
        "accuracy": _say_accuracy(report),
        "warm_start": _say_warm_start(report),
        "curves": _say_curves(report),
        "domains": _say_domains(report),
        "voices": _say_voices(report),
        "recall": _say_recall(report),
        "errors": _say_errors(report),
        "spell": _say_spell(report),
        "clusters": _say_clusters(report),
        "seconds": _say_seconds(report),
    }


def _say_stages(report: dict[str, Any]) -> str:
    stages = measured_stages(report)
    if not stages:
        return ""
    last = stages[-1]
    m = {key: pick(report, f"misalignment.{key}.all") for key in (*STAGES, *CONTROLS)}
    trained = [key for key in stages if key != "init"] or stages
    text = f"M is {nats(m[last])} after {STAGES[last]}"
    if len(trained) > 1:
        first = trained[0]
        beside = pick(report, f"misalignment.{first}.stage2.all")
        number = pick(report, f"misalignment.{first}.n_documents")
        text = f"M goes from {nats(m[first])} ({STAGES[first]}) to {nats(m[last])} nats per token after {STAGES[last]}"
        if last == "stage2" and beside is not None:
            text = f"On the same {number} documents M goes from {nats(m[first])} ({STAGES[first]}) to {nats(beside)}"
            text += f" nats per token after {STAGES[last]}; over all of them it is {nats(m[last])}"
    places = [
        f"{_against(report, last, key)} {key} ({nats(m[key])})"
        for key in CONTROLS
        if m[key] is not None and key != "other"
    ]
    text += f", which is {_list(places)}" if places else ""
    other = pick(report, "over.other")
    if other and other.get("value") is not None:
        around = f" [{nats(other['low'])}, {nats(other['high'])}]" if other.get("low") is not None else ""
        text += f"; hearing another document's recording costs {nats(other['value'], sign=True)}{around}, paired"
    if m["init"] is not None and last != "init":
        text += f"; the untrained model, at {nats(m['init'])}, is left off the axis"
    documents = pick(report, f"misalignment.{last}.n_documents")
    over = f" over {documents} held-out documents" if documents else ""
    return f"{text}; whiskers and bands are 95 % intervals{over}."


def _against(report: dict[str, Any], last: str, control: str) -> str:
    """`compare`, by the paired interval where there is one."""
    paired = pick(report, f"over.{control}") if last == "stage2" else None
    if not paired or paired.get("low") is None:
        return compare(report, last, control)
    return "below" if paired["low"] > 0 else "above" if paired["high"] < 0 else "within error of"


def _say_accuracy(report: dict[str, Any]) -> str:
    speech, chance = pick(report, "accuracy.speech_adapted"), pick(report, "accuracy.chance")
    if not speech or speech.get("value") is None:
        return "" if not any(pick(report, f"accuracy.{key}.value") for key in ACCURACIES) else "Speech was not scored."
    text = f"SALAD, hearing, is right in {percent(speech['value'])} {interval(speech)}".rstrip()
    if chance is not None and speech.get("low") is not None:
        text += f", {'above' if speech['low'] > chance else 'not clearly above'} the chance of {percent(chance)}"
    gap = pick(report, "accuracy.gap")
    if gap and gap.get("value") is not None:
        text += f"; the gap between text and speech is {points(gap['value'])}"
        text += f" {interval(gap)}" if interval(gap) else ""
        if gap.get("low") is not None and gap["low"] <= 0 <= (gap.get("high") or 0):
            text += ", an interval that holds 0"
    return f"{text}."


def _say_warm_start(report: dict[str, Any]) -> str:
    losses = [row["loss"] for row in pick(report, "curves.warm_start") or [] if row.get("loss") is not None]
    if len(losses) < 2:
        return ""
    tenth = max(1, len(losses) // 10)
    first, last = float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))
    return f"The warm start's loss goes from {first:.2f} to {last:.2f} (means of its first and last tenth)."


def _say_curves(report: dict[str, Any]) -> str:
    said = []
    for stage in ("stage1", "stage2"):
        rows = pick(report, f"curves.{stage}") or []
        moves = []
        for key, name in (("misalignment", "M"), ("forgetting", "F")):
            points = [row[key] for row in rows if row.get(key) is not None]
            if points:
                moves.append(f"{name} from {nats(points[0])} to {nats(points[-1])}")
        if moves:
            said.append(f"{STAGES[stage]} takes {' and '.join(moves)}")
        elif rows:
            said.append(f"{STAGES[stage]} has no live M or F")
    return f"On the live probe, {'; '.join(said)}." if said else ""


def _say_domains(report: dict[str, Any]) -> str:
    before = pick(report, "misalignment.stage1.by_domain") or {}
    after = stage_two_beside(report, "stage1").get("by_domain") or {}
    change = {key: after[key] - before[key] for key in before if before[key] is not None and after.get(key) is not None}
    if not change:
        return "" if not (before or after) else "M by domain was measured at one of the two stages only."
    bought = bought_by_domain(report)
    text = f"Stage II lowers M in {sum(delta < 0 for delta in change.values())} of {len(change)} domains"
    groups = [
        (f"in the {len(group)} {name}", float(np.mean(group)))
        for name, group in (
            ("it bought speech for", [delta for key, delta in change.items() if bought.get(key)]),
            ("others", [delta for key, delta in change.items() if not bought.get(key)]),
        )
        if group
    ]
    return f"{text}; the mean change is " + _list([f"{nats(mean, sign=True)} {name}" for name, mean in groups]) + "."


def _say_voices(report: dict[str, Any]) -> str:
    stages = measured_stages(report)
    voices = pick(report, f"misalignment.{stages[-1]}.by_voice") or {} if stages else {}
    voices = {key: m for key, m in voices.items() if m is not None}
    if not voices:
        return ""
    unseen = [m for key, m in voices.items() if "(unseen)" in key]
    seen = [m for key, m in voices.items() if "(unseen)" not in key]
    if unseen and seen:
        kind = "the voice" if len(unseen) == 1 else "voices"
        others = f"{nats(np.mean(seen))} for {'the other' if len(seen) == 1 else 'the others (mean)'}"
        return f"After {STAGES[stages[-1]]}, M is {nats(np.mean(unseen))} for {kind} never trained on and {others}."
    best, worst = min(voices, key=voices.__getitem__), max(voices, key=voices.__getitem__)
    if best == worst:
        return f"After {STAGES[stages[-1]]}, M is {nats(voices[best])} for {best}, the only voice measured."
    return (
        f"M lies between {nats(voices[best])} ({best}) and {nats(voices[worst])} ({worst}); all voices were trained on."
    )


def _say_recall(report: dict[str, Any]) -> str:
    rows = {row["exposure"]: row for row in pick(report, "hearing.word_recall.trained") or []}
    if not rows:
        return ""
    known = [(name, rows[key]) for key, name in EXPOSURES.items() if key in rows and rows[key]["value"] is not None]
    said = [f"{percent(row['value'])} of the words {name}" for name, row in known]
    leaked = pick(report, "hearing.withheld.heard_or_read")
    more = f" {len(leaked)} of the withheld words were heard or read all the same." if leaked else ""
    return f"In voices that were trained on, the ears find {_list(said)}.{more}" if said else ""


def _say_errors(report: dict[str, Any]) -> str:
    rows = [row for row in report.get("voices") or [] if pick(row, "wer.value") is not None]
    if not rows:
        return ""
    text = "; ".join(f"{row['voice']}: WER {rate(row['wer'])}" for row in rows)
    return f"{text}. Case and punctuation do not count."


def _say_spell(report: dict[str, Any]) -> str:
    rows = [row for row in pick(report, "curves.spell") or [] if row.get("token_accuracy") is not None]
    if not rows:
        return ""
    first, last = rows[0]["token_accuracy"], rows[-1]["token_accuracy"]
    return f"The upper part comes to spell {percent(last)} of the tokens rightly ({percent(first)} at first)."


def _say_clusters(report: dict[str, Any]) -> str:
    rows = [row for row in report.get("selection") or [] if row.get("misalignment") is not None]
    if not rows:
        return ""
    bought = [row["misalignment"] for row in rows if row.get("bought_s")]
    rest = [row["misalignment"] for row in rows if not row.get("bought_s")]
    text = f"Speech was bought for {len(bought)} of {len(rows)} clusters"
    if bought and rest:
        text += f" (mean M {nats(np.mean(bought))}, the others {nats(np.mean(rest))})"
    dropped = sum(bool(row.get("dropped")) for row in rows)
    text += f"; {dropped or 'none'} {'was' if dropped == 1 else 'were'} dropped"
    pairs = [(row["misalignment"], row["cer"]) for row in rows if row.get("cer") is not None]
    if (correlation := rank_correlation(pairs)) is not None:
        text += f"; M and CER have a rank correlation of {correlation:+.2f}".replace("-", "−")
    if found := report.get("evidence"):
        text += f". {_say_evidence(found)}"
    return f"{text}."


def _say_evidence(found: dict[str, Any]) -> str:
    """Whether the probe's M(c) differ beyond their errors, and so what the purchase rests on."""
    text = f"Selection: {found['decision']}"
    if "p" in found:
        text += (
            f" (p {found['p']:.3f} that all clusters have the same M, reliability of M(c) {found['reliability']:.2f}, "
            f"{found['documents']} documents or {found['seconds']:.0f} s of speech probed)"
        )
    if isinstance(overlap := found.get("overlap"), float) and math.isfinite(overlap):
        text += f"; a selection by the true M(c) is expected to share {overlap:.0%} of this purchase"
    return text


def rank_correlation(pairs: list[tuple[float, float]]) -> float | None:
    """Spearman's correlation, ties sharing their mean rank; None for under four pairs or a constant side."""
    if len(pairs) < 4:
        return None
    ranks = []
    for side in zip(*pairs, strict=True):
        values = np.asarray(side)
        ranks.append([float((values < v).sum() + ((values == v).sum() - 1) / 2) for v in values])
    if min(np.std(ranks[0]), np.std(ranks[1])) == 0:
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _say_seconds(report: dict[str, Any]) -> str:
    stages = {key: s for key, s in (report.get("seconds") or {}).items() if key != "total" and s is not None}
    if not stages:
        return ""
    longest, total = max(stages, key=stages.__getitem__), pick(report, "seconds.total") or sum(stages.values())
    share = f" ({percent(stages[longest] / total)})" if total else ""
    return f"The run took {duration(total)}; its longest stage is {longest}, {duration(stages[longest])}{share}."


def _list(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def print_report(report: dict[str, Any], console: Console) -> None:
    """Print the headline figures as two compact tables; "–" marks what was not measured."""
    report = plain(report)

    def show(value: Any, form: Any) -> str:
        return "–" if value is None else form(value)

    table = Table(title=f"SALAD run: {report.get('name') or 'unnamed'}", title_justify="left", title_style="bold")
    table.add_column("")
    for column in ("M (nats/token)", heard_title(report), "F (nats/token)"):
        table.add_column(column, justify="right")
    for key, name in (STAGES | CONTROLS).items():
        cells = []
        for kind in ("misalignment", "forgetting"):
            value, se = (pick(report, f"{kind}.{key}.{part}") for part in ("all", "se"))
            cells.append(show(value, nats) + (f" ± {nats(Z95 * se)}" if value is not None and se is not None else ""))
        heard = show(heard_of(report, f"by_stage.{key}")[1], percent)
        table.add_row(name, cells[0], heard, cells[1], end_section=key == list(STAGES)[-1])
    console.print(table)

    table = Table(title_justify="left")
    table.add_column(f"accuracy, n = {show(pick(report, 'accuracy.n'), str)}")
    for column in ("value", "95 % interval"):
        table.add_column(column, justify="right")
    for key, name in ACCURACIES.items():
        value = pick(report, f"accuracy.{key}")
        table.add_row(name, show(pick(report, f"accuracy.{key}.value"), percent), interval(value) or "–")
    gap = pick(report, "accuracy.gap")
    table.add_row("gap, text − speech", show(pick(report, "accuracy.gap.value"), points), interval(gap) or "–")
    table.add_row("chance", show(pick(report, "accuracy.chance"), percent), "")
    console.print(table)

    if tasks := task_rows(report):
        table = Table(Column("items", overflow="fold", min_width=11), title_justify="left")
        systems = {"text_base": "read", "speech_adapted": "heard", "blind": "silence", "other": "other"}
        systems |= {"cascade": "cascade"}
        for column in ("n", "chance", *systems.values(), "gap, points"):
            table.add_column(column, justify="right")
        for row in tasks:
            values = [row.get("chance"), *((row.get(key) or {}).get("value") for key in systems)]
            cells = ["" if value is None else f"{100 * value:.0f}" for value in values]
            table.add_row(row["task"], str(row["n"]), *cells, f"{100 * row['gap']['value']:.0f} {interval(row['gap'])}")
        console.print(table)

    if voices := report.get("voices"):
        table = Table("voice", title_justify="left")
        for column in ("M", "heard", "WER", "phone error"):
            table.add_column(column, justify="right")
        for row in voices:
            shares = [pick(row, f"{key}.value") for key in ("heard", "wer", "phone_error")]
            table.add_row(
                row["voice"], show(pick(row, "stage2.all"), nats), *(show(share, percent) for share in shares)
            )
        console.print(table)

    hours = {key: pick(report, f"speech_hours.{key}") for key in ("stage1", "bought")}
    said = [f"{show(h, '{:.2f}'.format)} h {key}" for key, h in hours.items()]
    simulated = ", simulated" if report.get("simulated") else ""
    console.print(f"speech{simulated}: {', '.join(said)}; run time {show(pick(report, 'seconds.total'), duration)}")
