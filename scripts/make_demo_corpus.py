"""Make the corpus that ships with the package (`salad assets list`: demo-corpus).

    python scripts/make_demo_corpus.py write OUT 0 --workers 2    # the teacher writes; two parts, in any order
    python scripts/make_demo_corpus.py write OUT 1
    python scripts/make_demo_corpus.py screen OUT                 # held out, withheld words, what must go and why
    python scripts/make_demo_corpus.py speak OUT                  # held-out recordings, aligned
    python scripts/make_demo_corpus.py ship OUT                   # into the package, with its pins

Each step goes on where it was killed.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from salad.data.generate_text import HELDOUT_TOPICS, prompts, refuse
from salad.data.generate_text import write_documents as let_the_teacher_write
from salad.data.manifest import load_spoken, read_utterances, utterance_to_dict
from salad.data.prepared import GROUPS, RECORDINGS, WITHHELD, PreparedRecording, first_of_each_domain, read_prepared
from salad.data.topics import broad_topics, narrow_topics
from salad.data.withheld import base_form, word_forms
from salad.engine import run_shards
from salad.evaluation.benchmark_task import find_task, load_items
from salad.files import read_jsonl, sha256_file, write_jsonl, write_text
from salad.progress import console
from salad.select.screen import near_duplicates, overlapping
from salad.synthesize.speak import speak_all
from salad.synthesize.word_times import align_spoken
from salad.types import Document

LLM, SEED, BATCH = "smollm2-135m-instruct", 15, 96
FIRST_TOPICS = 12  # of each broad domain are written about by part 0, the others by part 1
WEB, SPEECH, HELDOUT = (12, 6), 9, 4  # documents: of a broad topic by part, of a narrow one, of one held out
SAMPLING = (  # by part
    {"temperature": 0.8, "top_k": 100, "max_new_tokens": 130},
    {"temperature": 0.9, "top_k": 200, "max_new_tokens": 120},
)
OTHER_PROMPTS = (  # of part 1
    "Tell a child of ten about {topic}, with examples.",
    "Write a short newspaper article on {topic}. Name people, places and things.",
    "Describe {topic} in detail, in one paragraph of plain sentences.",
    "Write what a museum guide would say about {topic}.",
)

MIN_WORDS, MAX_WORDS = 40, 90
HELDOUT_PER_DOMAIN = 6
NEAR_DUPLICATE, OVERLAP_WORDS = 0.5, 13
TASKS = ("salad_science", "salad_howto")
WITHHELD_OCCURRENCES, WITHHELD_DOCUMENTS, MIN_LETTERS = 300, 2, 5
UNSAYABLE = re.compile(r"[^\w\s.,;:!?'\"()’‘“”…–—%$£€&/°+-]|_|[^\x00-\u024f\u2010-\u2026€]")
KIND = re.compile(r"^\d+ words, |: .*| of \w+(?= are not)| as [\w-]+$")  # what is of one document in a reason
ASIDE = re.compile(r"\b(?:as an ai|language model|i'm sorry, but i|i cannot assist|i can't assist)\b", re.IGNORECASE)

VOICES = {  # of demo.yaml, and how many documents of each domain they say: its unseen voices, and the seen one
    "kokoro:jf_tebukuro": 1,
    "kokoro:af_heart": 1,
    "piper-joe": 4,
}
VOICE_LICENCES = {"kokoro:jf_tebukuro": "Apache-2.0", "kokoro:af_heart": "Apache-2.0", "piper-joe": "CC0-1.0"}
ALIGNER, MIN_SCORE = "whisper-tiny.en", 0.3
SHIPPED = Path(__file__).parents[1] / "src" / "salad" / "assets" / "data" / "demo-corpus"


def rows(part: int) -> list[dict[str, str]]:
    """Prompts of a part. The first topics of each domain are held out."""
    broad, narrow = broad_topics(), narrow_topics()
    heldout = {domain: topics[:HELDOUT_TOPICS] for domain, topics in {**narrow, **broad}.items()}
    if part == 0:
        return [
            *prompts(heldout, HELDOUT - 1, "heldout", SEED),
            *prompts({d: t[HELDOUT_TOPICS:] for d, t in narrow.items()}, SPEECH, "speech", SEED),
            *prompts({d: t[HELDOUT_TOPICS:FIRST_TOPICS] for d, t in broad.items()}, WEB[0], "web", SEED),
        ]
    reserve = [row for row in prompts(heldout, HELDOUT, "heldout", SEED + 1) if row["id"].endswith(f"-{HELDOUT - 1}")]
    later = {topic for topics in broad.values() for topic in topics[FIRST_TOPICS:]}
    web = prompts({d: t[HELDOUT_TOPICS:] for d, t in broad.items()}, WEB[1], "web", SEED + 1)
    web = [row for row in web if row["topic"] in later]
    for n, row in enumerate(web):
        row["prompt"] = OTHER_PROMPTS[n % len(OTHER_PROMPTS)].format(topic=row["topic"])
    return reserve + web


def write(out: Path, part: int, workers: int) -> None:
    function = functools.partial(
        let_the_teacher_write, llm=LLM, min_words=MIN_WORDS, seed=SEED + part, bf16=True, **SAMPLING[part]
    )
    run_shards(
        function, rows(part), out / f"text-{part}", shard_items=BATCH, workers=workers, title="the teacher writes",
        unit="documents", quarantine=True,
    )  # fmt: skip


def cut(text: str) -> str:
    """Whole sentences of the text, as many as MAX_WORDS hold."""
    ends = [match.end() for match in re.finditer(r"[.!?][\"'”’)\]]*(?=\s|$)", text)]
    kept = [end for end in ends if len(text[:end].split()) <= MAX_WORDS]
    return text[: kept[-1]] if kept else ""


def screen(out: Path) -> None:
    """Documents that may be used, in out/corpus, with the withheld words; the others with their reasons beside them."""
    aside: list[dict[str, str]] = []
    groups: dict[str, list[Document]] = {group: [] for group in GROUPS}
    for part in range(len(SAMPLING)):
        for folder in sorted((out / f"text-{part}").glob("shard-*")):
            aside += [{"id": row["id"], "reason": row["reason"]} for row in read_jsonl(folder / "quarantine.jsonl")]
            for row in read_jsonl(folder / "documents.jsonl"):
                document = replace(Document(**row), text=cut(row["text"]))
                groups[document.id.partition("-")[0]].append(document)

    def drop(name: str, reasons: Iterable[str]) -> None:
        judged = list(zip(groups[name], reasons, strict=True))
        aside.extend({"id": document.id, "reason": reason} for document, reason in judged if reason)
        groups[name] = [document for document, reason in judged if not reason]

    for name in GROUPS:
        drop(name, [refuse(d.text, MIN_WORDS) or unfit(d.text) for d in groups[name]])
    drop("heldout", repeats(groups["heldout"], []))
    place: Counter[str] = Counter()
    surplus = []
    for document in groups["heldout"]:
        place[document.domain] += 1
        over = place[document.domain] > HELDOUT_PER_DOMAIN
        surplus.append(f"more than {HELDOUT_PER_DOMAIN} of {document.domain} are not needed" if over else "")
    drop("heldout", surplus)
    heldout = [d.text for d in groups["heldout"]]
    items = [load_items(*find_task(task)) for task in TASKS]
    evaluation = [f"{item.context} {item.choices[item.answer]}" for loaded in items for item in loaded.items]
    for name in ("web", "speech"):
        seen = overlapping([d.text for d in groups[name]], heldout + evaluation, OVERLAP_WORDS)
        why = f"shares {OVERLAP_WORDS} words in a row with a held-out document or an item of {' or '.join(TASKS)}"
        drop(name, [why if hit else "" for hit in seen])
    drop("web", repeats(groups["web"], groups["heldout"]))
    drop("speech", repeats(groups["speech"], groups["heldout"] + groups["web"]))
    training = [d.text for d in groups["web"] + groups["speech"]]
    words, dropped = choose_withheld(
        heldout, training, occurrences=WITHHELD_OCCURRENCES, max_documents=WITHHELD_DOCUMENTS
    )
    gone = {training[place] for place in dropped}
    for name in ("web", "speech"):
        drop(name, ["holds a withheld word" if d.text in gone else "" for d in groups[name]])
    for name in GROUPS:
        write_jsonl(out / "corpus" / f"{name}.jsonl.gz", map(asdict, groups[name]))
    write_text(out / "corpus" / WITHHELD, "".join(f"{word}\n" for word in words))
    write_jsonl(out / "corpus" / "quarantine.jsonl.gz", aside)
    training = [d.text for d in groups["web"] + groups["speech"]]
    report = {
        "documents": {name: len(group) for name, group in groups.items()},
        "words": {name: sum(len(d.words) for d in group) for name, group in groups.items()},
        "aside": Counter(KIND.sub("", row["reason"]) for row in aside),
        "withheld": len(words),
        "heldout": exposure(heldout, training, words),
        "speech alone": exposure(heldout, [d.text for d in groups["speech"]], words),
    }
    console.print(json.dumps(report, indent=1), highlight=False)


def documents_with(texts: Iterable[str]) -> Counter[str]:
    """In how many of the texts each base form occurs."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update({base_form(word) for word in word_forms(text)})
    return counts


def choose_withheld(
    heldout: Sequence[str], training: Sequence[str], *, occurrences: int, max_documents: int = 2
) -> tuple[list[str], list[int]]:
    """Words of the held-out texts to withhold, sorted, and the places of the training texts that must go for them.

    A word has letters only, MIN_LETTERS at least, and occurs in at most `max_documents` training texts. All words that
    no training text has are chosen, for they cost nothing; then those that give most occurrences for the texts they
    cost, until the held-out texts hold `occurrences` of all chosen.
    """
    surface: dict[str, set[str]] = {}
    counts: Counter[str] = Counter()
    for text in heldout:
        for word in word_forms(text):
            form = base_form(word)
            if len(form) >= MIN_LETTERS and form.isalpha():
                counts[form] += 1
                surface.setdefault(form, set()).add(word.removesuffix("'s"))
    places: dict[str, set[int]] = {form: set() for form in counts}
    for place, text in enumerate(training):
        for form in {base_form(word) for word in word_forms(text)} & places.keys():
            places[form].add(place)
    total, chosen, dropped = 0, [], set[int]()
    for form in sorted(places, key=lambda f: (len(places[f]) / counts[f], f)):
        if len(places[form]) > max_documents or (places[form] and total >= occurrences):
            continue
        chosen.append(form)
        dropped |= places[form]
        total += counts[form]
    return sorted(word for form in chosen for word in surface[form]), sorted(dropped)


def exposure(heldout: Iterable[str], training: Iterable[str], withheld: Iterable[str]) -> dict[str, int]:
    """Words of held-out texts, each occurrence: all, the withheld, and by how many training texts have them."""
    seen, kept_out = documents_with(training), {base_form(word) for word in withheld}
    forms = [base_form(word) for text in heldout for word in word_forms(text)]
    counts = [seen[form] for form in forms]
    return {
        "words": len(forms),
        "withheld": sum(form in kept_out for form in forms),
        "in_none": sum(n == 0 for n in counts),  # the withheld ones among them
        "in_1_to_2": sum(1 <= n <= 2 for n in counts),
        "in_3_to_9": sum(3 <= n <= 9 for n in counts),
        "in_10_or_more": sum(n >= 10 for n in counts),
    }


def unfit(text: str) -> str:
    if found := UNSAYABLE.search(text):
        return f"holds a sign that no voice can say: {found.group()}"
    return "speaks of itself" if ASIDE.search(text) else ""


def repeats(documents: list[Document], before: list[Document]) -> list[str]:
    """For each document, whether it is nearly the same text as an earlier one, or one of `before`."""
    every = before + documents
    found = near_duplicates([d.text for d in every], NEAR_DUPLICATE)[len(before) :]
    return ["" if place is None else f"nearly the same text as {every[place].id}" for place in found]


def speak(out: Path, workers: int) -> None:
    """The first held-out documents of each domain in each of VOICES, with the times of their words; what the corpus
    holds already stays."""
    corpus, start_s = out / "corpus", time.monotonic()
    prepared = read_prepared(corpus)
    kept = [r for r in prepared.recordings if r.utterance.speaker in VOICES]
    said = {recording.said for recording in kept}
    pairs = [
        (document, voice)
        for voice, number in VOICES.items()
        for document in first_of_each_domain(prepared.documents["heldout"], number)
        if (document.id, voice) not in said
    ]
    folders = speak_all(pairs, out / "spoken", seed=SEED, workers=workers, title="speak held-out", audio="opus")
    spoken = load_spoken(folders)
    sentences = {utterance.id: times for utterance, times in spoken}
    function = functools.partial(align_spoken, asset=ALIGNER, min_score=MIN_SCORE)
    folders = run_shards(
        function, [(utterance_to_dict(u), times) for u, times in spoken], out / "aligned", shard_items=8,
        workers=workers, title="align held-out", unit="utterances",
    )  # fmt: skip
    recordings = list(kept)
    for utterance in (u for folder in folders for u in read_utterances(folder / "utterances.jsonl")):
        path = corpus / utterance.speaker.rpartition(":")[2] / f"{utterance.document_id.removeprefix('heldout-')}.opus"
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(utterance.audio, path)
        own = replace(utterance, audio=str(path), licence=VOICE_LICENCES[utterance.speaker])
        recordings.append(PreparedRecording(own, tuple(sentences[utterance.id])))
    write_recordings(corpus, recordings)
    new, took_s = recordings[len(kept) :], time.monotonic() - start_s
    spoken_s = sum(r.utterance.duration_s for r in new)
    console.print(f"{len(new)} of {len(pairs)} new recordings, {spoken_s:.0f} s, made in {took_s:.0f} s")


def write_recordings(folder: Path, recordings: Iterable[PreparedRecording]) -> None:
    """heldout.recordings.jsonl; the audio files lie in the folder already."""
    rows = []
    for recording in recordings:
        own = recording.utterance
        rows.append(
            {
                "id": own.id,
                "document_id": own.document_id,
                "voice": own.speaker,
                "audio": Path(own.audio).relative_to(folder).as_posix(),
                "num_samples": own.num_samples,
                "sample_rate_hz": own.sample_rate_hz,
                "licence": own.licence,
                "score": round(own.score, 4),
                "sentences": [[a, b, round(start, 3), round(end, 3)] for a, b, start, end in recording.sentences],
                "words": [[w.text, *(round(x, 3) for x in (w.start_s, w.end_s, w.score))] for w in own.words],
            }
        )
    write_jsonl(folder / RECORDINGS, rows)


def ship(out: Path) -> None:
    shutil.rmtree(SHIPPED, ignore_errors=True)
    pins = []
    for path in sorted((out / "corpus").rglob("*")):
        if path.is_file():
            target = SHIPPED / path.relative_to(out / "corpus")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            pins.append(f"{target.relative_to(SHIPPED).as_posix()}\t{path.stat().st_size}\t{sha256_file(path)}\n")
    write_text(SHIPPED.with_name(f"{SHIPPED.name}.tsv"), "".join(pins))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("write", "screen", "speak", "ship"))
    parser.add_argument("out", type=Path)
    parser.add_argument("part", type=int, nargs="?", default=0, help="of write")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread")
    arguments = parser.parse_args()
    if arguments.step == "write":
        write(arguments.out, arguments.part, arguments.workers)
    elif arguments.step == "screen":
        screen(arguments.out)
    elif arguments.step == "speak":
        speak(arguments.out, arguments.workers)
    else:
        ship(arguments.out)


if __name__ == "__main__":
    main()
