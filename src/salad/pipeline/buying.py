"""What a run knows before it buys speech: what there is to buy, what was heard and read so far, and the two prices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from salad.engine import Joined, Made
from salad.files import read_jsonl
from salad.measure.divergence import divergence, speech_ears
from salad.measure.hearing import heard_of_utterances, phone_errors, spoken_words
from salad.measure.oracle import symbol_ears, symbols_of_model, true_symbols
from salad.model.teacher import Teacher
from salad.pipeline.corpus_needs import stream_documents
from salad.pipeline.ears_data import spell_documents
from salad.pipeline.leakage import evaluation_texts
from salad.pipeline.prober import Prober, kept_speech, probed_speech
from salad.pipeline.run import Run
from salad.pipeline.speech_jobs import open_frames
from salad.pipeline.speechlm import load_symbols, speech_examples
from salad.pipeline.stages.align import stream_aligned
from salad.pipeline.stages.corpus import load_documents
from salad.pipeline.stages.probe import load_probed
from salad.pipeline.stages.synthesize import load_bought
from salad.select.choose import Market, Units
from salad.select.coverage import units_of
from salad.select.prices import PricedDocument, Prices, exposure, two_prices
from salad.select.screen import near_duplicates, overlapping
from salad.types import SaladError, Utterance


def market_of(run: Run, excluded: Sequence[Mapping[str, str]]) -> Market:
    """D_web with what the probe found; excluded: rows of `excluded`. Earlier rounds' purchases are taken."""
    clusters, labels, probed = load_probed(run)
    bought = {r["id"] for one in run.rounds[:-1] for r in read_jsonl(one.folder("select") / "documents.jsonl")}
    return Market(
        clusters=clusters,
        documents=stream_documents(run, "web"),
        labels=labels.tolist(),
        seconds_per_word=probed.seconds_per_word,
        decision=probed.decision,
        reliability=probed.reliability or 0.0,
        taken={row["id"] for row in excluded} | bought,
        kept={u.document_id: u.duration_s for u in kept_speech(run)},
    )


def excluded(run: Run) -> list[dict[str, str]]:
    """{id, reason} of what is never bought: texts of an evaluation, and near-duplicates of an earlier text."""
    settings = run.recipe.select
    documents, heldout = stream_documents(run, "web"), load_documents(run, "heldout")
    texts = Made(lambda document: document.text, documents)
    evaluation = [text for _, text in evaluation_texts(run.recipe, heldout)]
    seen = overlapping(texts, evaluation, settings.overlap_words)
    again = near_duplicates(texts, settings.near_duplicate)
    rows = []
    for document, overlaps, earlier in zip(documents, seen, again, strict=True):
        if overlaps:
            reason = f"shares {settings.overlap_words} words in a row with a held-out document or an item"
        elif earlier is not None:
            reason = f"nearly the same text as {documents[earlier].id}"
        else:
            continue
        rows.append({"id": document.id, "reason": reason})
    return rows


def units_of_run(run: Run) -> Units:
    """Words, and where the ears hear phones diphones, of every document of D_web, and those of the speech so far."""
    symbols = load_symbols(run) if run.recipe.model.ears == "symbols" else None
    spoken = {
        unit for u in _all_speech(run) for unit in units_of([u.text], symbols)[0]
    }  # not counted, and not all at once
    return units_of((d.text for d in stream_documents(run, "web")), symbols), spoken


def price(run: Run, market: Market) -> Prices:
    """The two prices of every probed cluster; the model of the probe hears its recordings again.

    Raises SaladError where its ears have no symbols.
    """
    heard = _counted(u.text for u in _all_speech(run))
    read = _counted(d.text for d in spell_documents(run)[0])
    words: dict[int, Counter[str]] = {cluster.id: Counter() for cluster in market.clusters}
    for document, cluster in zip(market.documents, market.labels, strict=True):
        words[cluster].update(spoken_words(document.text))
    rows = _priced(run, heard, read)
    return two_prices(rows, words, heard, read, seconds_per_word=market.seconds_per_word)


def _priced(run: Run, heard: Mapping[str, int], read: Mapping[str, int]) -> list[PricedDocument]:
    prober = Prober(run)
    model, base = prober.load()
    symbols = symbols_of_model(model)
    if symbols is None:
        raise SaladError("select.score: two_prices needs model.ears: symbols, whose two parts it prices")
    cluster_of = {row["id"]: row["cluster"] for row in read_jsonl(run.folder("probe") / "documents.jsonl")}
    utterances, examples = list[Utterance](), []
    for folder, own in probed_speech(run):
        frames = open_frames(run, folder / "frames", own, layouts=1)
        usable = [u for u in own if u.document_id in cluster_of]
        utterances += usable
        examples += speech_examples(run, prober.tokenizer, usable, frames)
    said = {u.id: true_symbols(u.text, symbols, e) for u, e in zip(utterances, examples, strict=True)}
    teacher = Teacher(base, cache=True)
    with prober.reading():
        by_ear = divergence(model, teacher, examples, speech_ears(model))
        by_truth = divergence(model, teacher, examples, symbol_ears(model, lambda e: said[e.id], len(symbols)))
        spans = heard_of_utterances(model, prober.tokenizer.decode, examples, utterances)
    wrong: dict[str, Counter[str]] = {}
    for span in spans:
        errors, phones = phone_errors(span.said_symbols or (), span.heard_symbols or ())
        wrong.setdefault(span.document, Counter()).update(errors=errors, phones=phones)
    out = []
    for utterance, m, known in zip(utterances, by_ear, by_truth, strict=True):
        words, counts = Counter(spoken_words(utterance.text)), wrong.get(utterance.document_id, Counter())
        if m.count and counts["phones"]:
            out.append(
                PricedDocument(
                    cluster=cluster_of[utterance.document_id],
                    misalignment=m.kl / m.count,
                    known=known.kl / known.count,
                    phone_error=counts["errors"] / counts["phones"],
                    heard=exposure(words, heard),
                    read=exposure(words, {w: read[w] - own for w, own in words.items() if read[w] > own}),
                )
            )
    return out


def _all_speech(run: Run) -> Sequence[Utterance]:
    """All speech so far: D_speech, and what earlier rounds bought."""
    return Joined([stream_aligned(run, "speech"), *(load_bought(one) for one in run.rounds[:-1])])


def _counted(texts: Iterable[str]) -> Counter[str]:
    return Counter(word for text in texts for word in spoken_words(text))
