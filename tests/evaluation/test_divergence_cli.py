"""`salad divergence`: the figures of a saved model, their controls, and what is refused or set aside."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

import salad
from salad import assets
from salad.cli import app
from salad.config import Recipe
from salad.data.manifest import read_utterances, write_lhotse, write_utterances
from salad.evaluation.divergence import DivergenceFigures, measure_divergence
from salad.evaluation.divergence import table_of as lines_of
from salad.evaluation.saved_model import LoadedModel, read_corpus
from salad.files import read_json, read_jsonl, write_json, write_jsonl
from salad.measure.divergence import divergence, speech_ears, summary
from salad.model.teacher import Teacher
from salad.pipeline.lock import OWNER, owned
from salad.pipeline.noise_conditions import noise_rows
from salad.pipeline.run import Run
from salad.records import from_json, to_json
from salad.testing.listeners import save_corpus, save_listener
from salad.text.normalise import wer_words
from salad.types import SaladError


def words(n, start=1):
    return " ".join(f"w{i % 60 + 1}" for i in range(start, start + n))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A model whose LLM moved, its text base, and a corpus."""
    folder = tmp_path_factory.mktemp("adapted")
    return *save_listener(folder, change=0.05), save_corpus(folder / "corpus")


def measure(adapted, out, corpus=None, **options):
    model, llm, own = adapted
    return to_json(measure_divergence(model, corpus or own, out, **{"teacher": str(llm), "workers": 1, **options}))


def table_of(figures):
    return lines_of(from_json(DivergenceFigures, figures, "divergence.json"))


def test_figures_are_means_of_the_documents_in_the_file(adapted, tmp_path):
    figures = measure(adapted, tmp_path)
    rows = read_jsonl(tmp_path / "divergence.jsonl")
    assert {row["of"] for row in rows} == {"misalignment", "blind", "deaf", "teacher", "forgetting"}
    for name, cell in figures["all"].items():
        own = [row for row in rows if row["of"] == name]
        assert cell["n_documents"] == 4 == len(own)
        assert cell["value"] == pytest.approx(sum(r["kl"] for r in own) / sum(r["count"] for r in own))
        assert cell["value"] > 0 and cell["se"] > 0
    for domain, part in figures["by_domain"].items():
        own = [row for row in rows if row["of"] == "deaf" and row["domain"] == domain]
        assert part["deaf"]["value"] == pytest.approx(sum(r["kl"] for r in own) / sum(r["count"] for r in own))
    m, deaf = figures["all"]["misalignment"]["value"], figures["all"]["deaf"]["value"]
    lowest = min(deaf, figures["all"]["blind"]["value"])
    assert figures["heard"]["value"] == pytest.approx(1 - m / lowest)
    assert figures["heard"]["formula"] == "1 - M / M_ref"
    assert figures == read_json(tmp_path / "divergence.json")
    header, lines = table_of(figures)
    assert [line[0] for line in lines] == ["all", "domain-0", "domain-1"] and len(header) == len(lines[0])


def test_words_are_counted_where_the_ears_score_tokens(adapted, tmp_path):
    model, _ = save_listener(tmp_path / "saved", rate="text", ctc=20)
    figures = to_json(measure_divergence(model, adapted[2], tmp_path / "out", workers=1))
    hearing, spans = figures["hearing"], read_jsonl(tmp_path / "out" / "heard.jsonl")
    assert list(hearing["by_voice"]) == ["a"] and hearing["all"]["spans"] == len(spans) > 4
    said = sum(len(wer_words(" ".join(word for word, _ in span["said"]))) for span in spans)
    assert hearing["all"]["wer"]["n"] == said and hearing["all"]["wer"]["value"] > 0.5
    header, lines = table_of(figures)
    assert header[-1] == "WER" and lines[0][-1].startswith(f"{hearing['all']['wer']['value']:.3f} [")
    assert measure(adapted, tmp_path / "fixed")["hearing"] is None  # an adapter whose output is no tokens


def test_the_same_command_writes_the_same_bytes(adapted, tmp_path):
    kept = []
    for name in ("one", "one", "two"):
        measure(adapted, tmp_path / name)
        kept.append([(tmp_path / name / f"divergence.{end}").read_bytes() for end in ("json", "jsonl")])
    assert kept[0] == kept[1] == kept[2]


def test_a_frozen_llm_forgets_nothing_and_its_teacher_divergence_is_m(tmp_path):
    model, llm = save_listener(tmp_path)
    figures = measure((model, llm, save_corpus(tmp_path / "corpus")), tmp_path / "out")
    assert figures["model"]["llm_frozen"] and figures["all"]["forgetting"]["value"] == 0.0
    assert figures["all"]["teacher"] == figures["all"]["misalignment"]


def test_an_llm_that_moved_has_forgotten_and_m_is_read_by_its_own_weights(adapted, tmp_path):
    figures = measure(adapted, tmp_path)
    assert not figures["model"]["llm_frozen"] and figures["all"]["forgetting"]["value"] > 1e-3
    assert figures["all"]["teacher"]["value"] != figures["all"]["misalignment"]["value"]


def test_m_of_a_text_only_corpus_is_zero(adapted, tmp_path):
    write_jsonl(tmp_path / "texts.jsonl", [{"text": words(20, i), "domain": "d"} for i in range(3)])
    figures = measure(adapted, tmp_path / "out", tmp_path / "texts.jsonl")
    assert abs(figures["all"]["misalignment"]["value"]) < 1e-6
    assert figures["all"]["forgetting"]["value"] > 1e-3 and "deaf" not in figures["all"]


def test_speech_and_text_in_one_file(adapted, tmp_path):
    rows = read_utterances(adapted[2])
    write_utterances(tmp_path / "both.jsonl", rows)
    with open(tmp_path / "both.jsonl", "a") as file:
        file.write(json.dumps({"id": "text", "text": words(20)}) + "\n")
    figures = measure(adapted, tmp_path / "out", tmp_path / "both.jsonl", trusted=True)
    assert figures["all"]["misalignment"]["n_documents"] == 5 and figures["all"]["deaf"]["n_documents"] == 4


def test_what_is_too_short_to_be_interleaved_is_set_aside(adapted, tmp_path):
    rows = read_utterances(adapted[2])
    short = [replace(u, id=f"short-{n}", words=u.words[:4], text=" ".join(w.text for w in u.words[:4]))
             for n, u in enumerate(rows)]  # fmt: skip
    write_utterances(tmp_path / "both.jsonl", [*rows, *short])
    figures = measure(adapted, tmp_path / "out", tmp_path / "both.jsonl", trusted=True)
    assert figures["corpus"]["utterances"] == 4 == figures["corpus"]["quarantined"]
    aside = read_jsonl(tmp_path / "out" / "quarantine.jsonl")
    assert [row["id"] for row in aside] == [u.id for u in short]
    assert all("too short to be interleaved" in row["reason"] for row in aside)
    alone = measure(adapted, tmp_path / "alone")
    assert figures["all"] == alone["all"]
    write_utterances(tmp_path / "short.jsonl", short)
    with pytest.raises(SaladError, match="none of 4 utterances can be measured .*of 4 words.*give longer recordings"):
        measure(adapted, tmp_path / "none", tmp_path / "short.jsonl", trusted=True)


@pytest.mark.parametrize("ctc", [0, 20])
def test_no_spans_are_heard_as_nothing(tmp_path, ctc):
    model, _ = save_listener(tmp_path, ctc=ctc)
    heard = LoadedModel(model).model.hear([])
    assert heard.embeddings.shape[0] == 0 and heard.lengths == heard.all_lengths == []


def test_an_id_of_a_text_stands_once(tmp_path):
    texts = [{"id": "a", "text": words(20, 1)}, {"id": "a", "text": words(20, 2)}, {"id": "b", "text": words(20, 3)}]
    write_jsonl(tmp_path / "texts.jsonl", texts)
    found = read_corpus(tmp_path / "texts.jsonl")
    assert [d.id for d in found.documents] == ["a", "b"]
    assert found.quarantined == [{"id": "a", "reason": "its id was there before"}]


def test_silence_gives_the_blind_figure(adapted, tmp_path):
    """Recordings of silence: hearing them is being blind."""
    import soundfile

    shutil.copytree(adapted[2].parent, tmp_path / "corpus")
    for path in (tmp_path / "corpus" / "audio").iterdir():
        samples, rate = soundfile.read(path)
        soundfile.write(path, np.zeros_like(samples), rate)
    figures = measure(adapted, tmp_path / "out", tmp_path / "corpus")
    blind = figures["all"]["blind"]["value"]
    assert figures["all"]["misalignment"]["value"] == pytest.approx(blind, rel=0.02)
    heard = measure(adapted, tmp_path / "heard")["all"]
    assert heard["misalignment"]["value"] != pytest.approx(heard["blind"]["value"], rel=0.02)
    assert heard["blind"]["value"] == pytest.approx(blind, rel=1e-6)


def test_a_lhotse_manifest_gives_the_same_figures(adapted, tmp_path):
    write_lhotse(read_utterances(adapted[2]), tmp_path / "cuts.jsonl.gz")
    ours = measure(adapted, tmp_path / "a")
    theirs = measure(adapted, tmp_path / "b", tmp_path / "cuts.jsonl.gz", trusted=True)
    assert ours["all"]["misalignment"]["value"] == pytest.approx(theirs["all"]["misalignment"]["value"], rel=1e-5)


def test_without_a_teacher_m_alone(adapted, tmp_path):
    figures = measure(adapted, tmp_path, teacher=None)
    assert figures["teacher"] is None and set(figures["all"]) == {"misalignment", "blind", "deaf"}


def test_a_run_says_its_teacher_and_how_it_interleaves(adapted, tmp_path):
    shutil.copytree(adapted[0], tmp_path / "stage2" / "model")
    settings = {"speech_words": [5, 5], "text_words": [5, 5], "first": "speech"}
    write_json(tmp_path / "recipe.json", {"seed": 3, "assets": {"llm": str(adapted[1])}, "sequence": settings})
    figures = measure((tmp_path / "stage2" / "model", None, adapted[2]), tmp_path / "out", teacher=None)
    assert figures["seed"] == 3 and figures["teacher"] == str(adapted[1])
    assert figures["all"]["misalignment"]["n_tokens"] == 4 * 15


def test_what_cannot_be_used_is_counted(adapted, tmp_path):
    rows = read_utterances(adapted[2])
    from dataclasses import replace

    spoiled = [*rows, rows[0], replace(rows[1], id="no-times", words=()), replace(rows[2], id="gone", audio="/no.wav")]
    write_utterances(tmp_path / "u.jsonl", spoiled)
    figures = measure(adapted, tmp_path / "out", tmp_path / "u.jsonl", trusted=True)
    quarantined = read_jsonl(tmp_path / "out" / "quarantine.jsonl")
    assert figures["corpus"]["quarantined"] == 3 == len(quarantined)
    assert {row["id"] for row in quarantined} == {"u0", "no-times", "gone"} and all(
        row["reason"] for row in quarantined
    )


def test_clear_errors(adapted, tmp_path):
    model, llm, corpus = adapted
    with pytest.raises(SaladError, match="no saved SALAD model"):
        measure((llm, llm, corpus), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SaladError, match="holds no manifest"):
        measure(adapted, tmp_path, tmp_path / "empty")
    (tmp_path / "x.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(SaladError, match="x.jsonl line 1"):
        measure(adapted, tmp_path, tmp_path / "x.jsonl")
    from dataclasses import replace

    write_utterances(tmp_path / "n.jsonl", [replace(u, words=()) for u in read_utterances(corpus)])
    with pytest.raises(SaladError, match="none of 4 utterances"):
        measure(adapted, tmp_path, tmp_path / "n.jsonl", trusted=True)
    other = tmp_path / "other"
    other.mkdir()
    tiny = LlamaConfig(vocab_size=7, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(tiny).save_pretrained(other)
    with pytest.raises(SaladError, match="has 7 tokens, the model 61"):
        measure((model, other, corpus), tmp_path)


def test_the_command_prints_the_table(adapted, tmp_path):
    model, llm, corpus = adapted
    arguments = ["divergence", model, "--corpus", corpus, "--teacher", llm, "--out", tmp_path, "--workers", "1"]
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    assert "domain-1" in done.output and "divergence.json" in done.output
    refused = CliRunner().invoke(app, ["divergence", str(llm), "--corpus", str(corpus)])
    assert refused.exit_code == 2 and "no saved SALAD model" in refused.output


def test_two_measurements_do_not_write_to_one_folder(adapted, tmp_path, monkeypatch):
    model, _, corpus = adapted
    with owned(tmp_path / "d"), pytest.raises(SaladError, match="in use by process"):
        salad.divergence(model, corpus, tmp_path / "d", workers=1)
    held = []
    monkeypatch.setattr(LoadedModel, "encode", lambda *_, **__: held.append((tmp_path / "f" / OWNER).exists()))
    monkeypatch.setattr(LoadedModel, "examples", lambda *_, **__: [])
    assert salad.load(model).examples(corpus, tmp_path / "f") == [] and held == [True]


def test_ears_apart_are_joined_with_their_llm_once(tmp_path, monkeypatch):
    """The joined folder is the saved model but for float16; ears of an LLM of another shape are refused."""
    monkeypatch.setenv("SALAD_CACHE", str(tmp_path / "cache"))
    model, llm = save_listener(tmp_path / "saved")
    ears = tmp_path / "ears"
    ears.mkdir()
    whole = load_file(model / "model.safetensors")
    own = {k: v.half() if v.is_floating_point() else v for k, v in whole.items() if not k.startswith("llm.")}
    save_file(own, ears / "adapter.safetensors")
    for name in ("config.json", "processor_config.json"):
        shutil.copyfile(model / name, ears / name)
    assert assets.model_folder(ears) == ears and assets.recipe_behind(ears) is None  # no recipe yet
    write_json(ears / "recipe.json", {"assets": {"llm": str(llm)}, "seed": 3, "sequence": {"first": "speech"}})
    joined = assets.model_folder(ears)
    assert joined != ears and assets.model_folder(ears) == joined and assets.model_folder(model) == model
    found = load_file(joined / "model.safetensors")
    assert found.keys() == whole.keys()
    assert all(torch.allclose(found[k].float(), whole[k].float(), atol=2e-3) for k in whole)
    assert all(torch.equal(found[k], whole[k]) for k in whole if k.startswith("llm."))
    loaded = LoadedModel(ears)
    assert loaded.frozen and loaded.seed == 3 and loaded.sequence.first == "speech"
    other = LlamaConfig(vocab_size=7, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(other).save_pretrained(tmp_path / "other")
    write_json(ears / "recipe.json", {"assets": {"llm": str(tmp_path / "other")}})
    with pytest.raises(SaladError, match=r"hidden_size is \d+, but .*other has 8; name the LLM of their training"):
        assets.model_folder(ears)


def test_noise_is_heard_beside_the_same_recordings_as_they_are(tmp_path, recipe_values):
    model, _ = save_listener(tmp_path, rate="text", ctc=20)
    utterances = read_utterances(save_corpus(tmp_path / "corpus", documents=2))
    recipe_values |= {"evaluate": {"noise": ["telephone"], "bootstrap": 100}, "engine": {"workers": 1}}
    recipe_values["assets"] = {"encoder": "log-mel"}
    run = Run(Recipe(**recipe_values))
    loaded = LoadedModel(model, None)
    frames = loaded.encode(utterances, tmp_path / "out", workers=1)
    examples = loaded.examples(utterances, frames)
    held = SimpleNamespace(
        run=run, model=loaded.model, tokenizer=loaded.tokenizer, utterances=utterances, examples=examples,
        document_of={u.id: u.document_id for u in utterances}, fewer=lambda number: examples,
        reader=lambda: Teacher(loaded.model, cache=False),
    )  # fmt: skip
    with torch.no_grad():
        plain, line = noise_rows(held)
        again = summary(divergence(loaded.model, held.reader(), examples, speech_ears(loaded.model)))
    assert (plain.condition, line.condition) == ("as recorded", "telephone")
    assert plain.misalignment == pytest.approx(again.all) != pytest.approx(line.misalignment)
    assert plain.wer.n and plain.cascade_wer.value > 0.5 and plain.phone_error is None
    for names, why in ((["speed:1.1"], "moves the times of words"), (["hiss"], "got 'hiss', expected white")):
        with pytest.raises(ValueError, match=why):
            Recipe(**{**recipe_values, "evaluate": {"noise": names}})
    written_out = Recipe(**{**recipe_values, "evaluate": {"noise": ["white:10.0+telephone", "reverb"]}})
    assert written_out.evaluate.noise == ("white:10+telephone", "reverb:0.5")  # one spelling, one fingerprint


def test_a_manifest_names_no_file_outside_its_folder_unless_it_is_trusted(adapted, tmp_path):
    rows = read_utterances(adapted[2])
    shutil.copytree(adapted[2].parent, tmp_path / "corpus")
    inside = [row for row in read_jsonl(tmp_path / "corpus" / "utterances.jsonl")]
    inside[0]["audio"] = "../../corpus/audio/0.wav"
    (tmp_path / "corpus" / "utterances.jsonl").write_text("\ufeff" + "".join(json.dumps(r) + "\n" for r in inside))
    found = read_corpus(tmp_path / "corpus")
    assert len(found.utterances) == len(rows) - 1
    assert [row["id"] for row in found.quarantined] == ["u0"] and "lies outside" in found.quarantined[0]["reason"]
    write_utterances(
        tmp_path / "run" / "align" / "heldout.jsonl", read_utterances(tmp_path / "corpus/utterances.jsonl")[1:]
    )
    assert len(read_corpus(tmp_path / "run" / "align" / "heldout.jsonl", trusted=True).utterances) == 3
    with pytest.raises(SaladError, match="none of 3 utterances can be used .*lies outside"):
        read_corpus(tmp_path / "run")
    write_json(tmp_path / "recipe.json", {})  # of one run: its stages name each other's audio
    assert len(read_corpus(tmp_path / "run").utterances) == 3


def test_a_broken_line_is_set_aside_and_the_others_are_read(adapted, tmp_path):
    shutil.copytree(adapted[2].parent, tmp_path / "corpus")
    path = tmp_path / "corpus" / "utterances.jsonl"
    path.write_text("null\n" + path.read_text() + '{"id": "torn", "te\n')
    found = read_corpus(path)
    assert len(found.utterances) == 4 and [row["id"] for row in found.quarantined] == [
        "utterances.jsonl:1",
        "utterances.jsonl:6",
    ]


def test_an_utterance_whose_audio_no_disk_could_name_is_set_aside(adapted, tmp_path):
    shutil.copytree(adapted[2].parent, tmp_path / "corpus")
    path = tmp_path / "corpus" / "utterances.jsonl"
    rows = read_jsonl(path)
    write_jsonl(path, [{**rows[0], "audio": "x" * 300 + ".wav"}, *rows[1:]])
    found = read_corpus(path)
    assert len(found.utterances) == 3 and found.quarantined[0]["reason"].endswith("does not exist")


def test_an_utterance_of_another_rate_than_its_file_is_set_aside(adapted, tmp_path):
    shutil.copytree(adapted[2].parent, tmp_path / "corpus")
    path = tmp_path / "corpus" / "utterances.jsonl"
    rows = read_jsonl(path)
    half = {"sample_rate_hz": 8_000, "num_samples": rows[0]["num_samples"] // 2}
    write_jsonl(path, [{**rows[0], **half}, *rows[1:]])
    found = read_corpus(path)
    assert len(found.utterances) == 3 and [row["id"] for row in found.quarantined] == ["u0"]
    assert "sample_rate_hz: got 8000, but" in found.quarantined[0]["reason"]
