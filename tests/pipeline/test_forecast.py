"""`salad plan`: the card of a machine, the forecast of every stage, and how far off it was."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from salad.cli import app
from salad.config import load_recipe
from salad.engine.precision import DecoderShape
from salad.files import write_json
from salad.pipeline.plan import calibrate, data_jobs, timing
from salad.pipeline.plan.card import MARKS, Card, Figure, choose_card, total
from salad.pipeline.plan.check import check, sentence
from salad.pipeline.plan.forecast import Forecast, StageForecast
from salad.pipeline.plan.steps import piece_words
from salad.pipeline.plan.workload import task_words
from salad.pipeline.run import STAGES
from salad.synthesize.voices import engine_of
from salad.testing.corpora import make_utterances
from salad.training.estimate import TOKENS_PER_WORD
from salad.types import SaladError

RECIPES = Path(__file__).parents[2] / "recipes"
H100 = Card("H100", True, None, {})


@pytest.fixture(scope="module")
def large():
    return load_recipe(RECIPES / "salad-3b.yaml")


@pytest.fixture(scope="module")
def eight(large):
    return Forecast(large, H100, 8)


def stage(forecast, name):
    return next(one for one in forecast.stages if one.name == name)


def test_a_sum_is_as_sure_as_the_least_sure_of_its_large_parts():
    sure, sheet = Figure(90.0, "measured", "here"), Figure(8.0, "data sheet", "its maker")
    assert total([sure, sheet]) == Figure(98.0, "measured", "here")
    assert total([sure, sheet.times(2)]).mark == "data sheet"
    assert total([sure, sheet.times(2)]).source == "here (measured); its maker"
    assert total([]).value == 0 and total([sure, sure]).source == "here"


def test_a_card_comes_back_as_it_was_written(tmp_path):
    card = Card("a machine", False, 4, {"head": Figure(1e9, "measured", "one head")}, {"threads": 2}, ({"run": "r"},))
    path = tmp_path / "cards" / "own.json"
    card.write(path)
    assert Card.read(path) == card and [p.name for p in path.parent.iterdir()] == ["own.json"]
    assert json.loads(path.read_text())["version"] == 1
    assert card.get("head").mark == "measured" and card.get("start").mark == "assumed"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": "other"}, "no calibration card"),
        ({"version": 99}, "version 99, expected 1"),
        ({"figures": {"head": {"value": 1.0, "mark": "guessed", "source": ""}}}, "not whole"),
        ({"figures": {"head": {"value": 1.0}}}, "not whole"),
    ],
)
def test_what_is_no_card_is_refused_by_name(tmp_path, change, match):
    path = tmp_path / "card.json"
    H100.write(path)
    write_json(path, {**json.loads(path.read_text()), **change})
    with pytest.raises(SaladError, match=match):
        Card.read(path)
    with pytest.raises(SaladError, match="cannot be read"):
        Card.read(tmp_path / "missing.json")


def test_every_stage_has_time_memory_and_disk_each_with_mark_and_source(eight):
    rows = list(eight.rows())
    for name in STAGES:
        own = {row[1]: row for row in rows if row[0] == name}
        assert {"time", "memory", "disk"} <= own.keys(), name
        for _, _, figure, mark, source in own.values():
            assert figure and mark in MARKS and source, name
    assert {row[3] for row in rows} == {"data sheet", "assumed"}  # nothing was measured


def test_the_papers_hours_take_the_disk_that_was_counted(large, eight):
    """docs/log.md: two layouts of Mimi's float16 are 8,584 B a second of sound, 4.4 TB of 141,612 h; all of it 12.8 kB.

    Stage I hears each recording five times: five layouts as spans take more than all of it once.
    """
    spans = large.model_copy(update={"sequence": large.sequence.model_copy(update={"encode": "spans"})})
    for forecast, wanted in ((eight, 6.5e12), (Forecast(spans, H100, 8), 4.4e12)):
        frames = [kept for kept in stage(forecast, "align").kept if kept.source.startswith("frames")]
        assert sum(kept.value for kept in frames) == pytest.approx(wanted, rel=0.05)
    otherwise = {what: told for _, what, told, *_ in eight.encoded_otherwise()}
    assert otherwise["frames as spans, a layout each pass: 5"].endswith("10.9 TB")
    assert otherwise["frames as recordings, of any layout"].endswith("6.53 TB")
    assert stage(eight, "corpus").disk.value > 141_612 * 3600 * 10_000  # the recordings as FLAC
    assert stage(eight, "stage1").device_memory.value < 80e9


def test_more_devices_and_fewer_hours_take_less(large, eight):
    one = Forecast(large, H100, 1)
    assert 6 < stage(one, "stage1").seconds.value / stage(eight, "stage1").seconds.value < 8.01
    assert stage(one, "align").seconds.value > 4 * stage(eight, "align").seconds.value
    few = Forecast(large, H100, 8, speech_hours=1000.0)
    ratio = stage(eight, "align").seconds.value / stage(few, "align").seconds.value
    assert 50 < ratio < 142
    assert "--speech-hours" in eight.load.source and "--speech-hours" not in few.load.source


def test_texts_are_read_by_one_process_each_as_often_as_its_own_every(large, eight):
    load, rate = eight.load, H100.get("texts rate").value
    wanted = (load.web.words * 10 + load.plain.words * 24) * 6 / rate
    parts = [
        part.value for part in stage(eight, "corpus").parts if part.source == f"texts: {H100.get('texts rate').source}"
    ]
    assert sum(parts) == pytest.approx(wanted)


def test_a_worker_that_encodes_holds_its_shard(large, eight):
    """Mimi's float16: 12,800 bytes a second of sound, twice, in each of eight workers."""
    more = large.model_copy(update={"engine": large.engine.model_copy(update={"shard_items": 1024})})
    each = eight.load.narrow.seconds / eight.load.narrow.documents
    added = stage(Forecast(more, H100, 8), "align").memory.value - stage(eight, "align").memory.value
    assert added == pytest.approx(512 * each * 12_800 * 2 * 8)


@pytest.mark.parametrize(("encode", "whole"), [("recordings", True), ("spans", False)])
def test_encoding_is_timed_as_the_recipe_does_it(large, tmp_path, encode, whole):
    (utterance,) = make_utterances(tmp_path, 1)
    spans = {"encode": encode, "text_words": (1, 2), "speech_words": (1, 2)}
    recipe = large.model_copy(update={"sequence": large.sequence.model_copy(update=spans)})
    pieces = data_jobs._pieces_to_encode(recipe, utterance)
    assert ([(p.start_word, p.end_word) for p in pieces] == [(0, len(utterance.words))]) == whole


def test_a_measured_figure_takes_the_place_of_an_assumed_one(large, eight):
    rates = {name: Figure(100.0, "measured", "a shard") for name in ("align whisper rate", "encode rate")}
    card = replace(H100, figures={**rates, "start": Figure(1.0, "measured", "a start")})
    own = Forecast(large, card, 8)
    assert stage(own, "align").seconds.mark == "measured" and stage(eight, "align").seconds.mark == "assumed"
    hours = 141_612 * 2 / 100 / 8  # all is aligned, and all encoded once
    assert stage(own, "align").seconds.value / 3600 == pytest.approx(hours, rel=0.01)
    faster = replace(card, figures={**card.figures, "step full layer": Figure(1e-9, "measured", "steps"),
                                    "step full rest": Figure(0.0, "measured", "steps")})  # fmt: skip
    layers, steps = own.plan.parameters["llm layers"][0] / 1e6, 24e9 / 8
    parts = stage(Forecast(large, faster, 8), "stage1").parts
    assert any(part.value == pytest.approx(steps * layers * 1e-9) and part.mark == "measured" for part in parts)


@pytest.fixture
def demo_run(tmp_path):
    """A directory of the short demo's with the seconds of two stages."""
    llm = "{model_type: llama, vocab_size: 512, hidden_size: 64, intermediate_size: 128, num_attention_heads: 4}"
    written = ["corpus.prepared=''", "corpus.web_documents_per_topic=1", "corpus.web_documents=null"]
    recipe = load_recipe(RECIPES / "demo-short.yaml", [*written, f"model.llm_config={llm}"])
    folder = tmp_path / "short"
    write_json(folder / "recipe.json", {**recipe.model_dump(mode="json"), "departures": []})
    for name, status, seconds in (("corpus", "done", 50.0), ("align", "done", 2.0), ("stage1", "running", 9.0)):
        write_json(folder / name / "stage.json", {"stage": name, "status": status, "seconds": seconds})
    return folder


def test_a_forecast_is_held_against_a_run(demo_run, tmp_path):
    card = choose_card(load_recipe(demo_run / "recipe.json"), "cpu")
    found = check(card, demo_run)
    assert found["run"] == "short" and found["stages"].keys() == {"corpus", "align"}
    foretold = found["stages"]["corpus"][0]
    assert found["stages"]["corpus"] == [foretold, 50.0] and foretold > 0
    exact = {"run": "short", "stages": {"corpus": [60.0, 50.0], "align": [1.0, 2.0]}}
    assert "61 s, it took 52 s (+17 %)" in sentence(exact)
    assert "corpus is furthest off" in sentence(exact)
    with pytest.raises(SaladError, match=r"no recipe\.json"):
        check(card, tmp_path)


def test_the_command_forecasts_from_a_card_and_tells_how_far_off_it_was(demo_run, tmp_path):
    path = tmp_path / "card.json"
    checked = ({"run": "before", "stages": {"corpus": [10.0, 20.0]}},)
    Card("a machine", False, 2, {"load": Figure(1e-8, "measured", "a load")}, {}, checked).write(path)
    command = ["plan", str(demo_run / "recipe.json"), "--card", str(path), "--against", str(demo_run)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "the forecast of before is 10 s, it took 20 s (-50 %)" in result.output
    assert "the forecast of short is" in result.output and "stage2\ttime" in result.output
    result = CliRunner().invoke(app, ["plan", str(demo_run / "recipe.json"), "--on", "Z80"])
    assert result.exit_code == 2 and "--on: got 'Z80'" in result.output


def test_a_card_of_this_machine(large, tmp_path, monkeypatch, recipe_values, write_recipe):
    """Every piece is timed on a tiny LLM; what is not here is assumed."""
    monkeypatch.setattr(timing, "BUDGET_S", 0.02)
    monkeypatch.setattr(calibrate, "time_collective", dict)
    monkeypatch.chdir(tmp_path)
    llm = {"model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24,
           "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
    ears = {"ears": "symbols", "rate": "text", "lower_width": 16, "upper_width": 16, "lower_layers": 1,
            "upper_layers": 1, "prior": 0.5}  # fmt: skip
    absent = dict.fromkeys(("llm", "asr", "embedder"), str(tmp_path / "absent"))
    recipe_values |= {"model": {"llm_config": llm, **ears}, "warm_start": {"enabled": True, "batch": 2},
                      "spell": {"batch": 4}, "assets": {**absent, "encoder": "log-mel"},
                      "stage1": {"steps": 4, "positions": 64, "llm": "frozen"},
                      "stage2": {"steps": 4, "llm": "frozen"}, "precision": "fp32"}  # fmt: skip
    monkeypatch.setattr(data_jobs, "assets_of_voice", lambda voice: (str(tmp_path / "absent"),))
    result = CliRunner().invoke(app, ["plan", str(write_recipe(recipe_values)), "--calibrate"])
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("*.card.json")
    card = Card.read(path)
    split = [f"{what} {part}" for what in ("step frozen", "hear", "read", "write") for part in ("layer", "rest")]
    assert card.figures.keys() == {"layer_forward", "layer_train", "head", *split, "lower piece", "spell", "start"}
    assert all(f.mark == "measured" and math.isfinite(f.value) and f.value >= 0 for f in card.figures.values())
    assert card.about["hidden"] == 16 and path.name in result.output


def test_the_jobs_workers_are_timed_apart_from_their_start(tmp_path):
    job = data_jobs._Job("sleep", tmp_path / "sleep", 1)
    places = job.run(_sleep, [0.02] * 6, None)
    assert [p.name for p in places] == ["first", "rest"] and (places[1] / "made").read_text() == "5"
    figures = job.figures([1.0] * 6)
    assert 20 < figures["sleep rate"].value <= 50 and figures["sleep start"].value > 0.2
    assert 10e6 < figures["sleep worker"].value < 8e9


def _sleep(shard, folder):
    """The first call loads what it needs."""
    import time

    time.sleep(sum(shard.items) + 0.3 * (folder.name == "first"))
    (folder / "made").write_text(str(len(shard.items)))


def test_operations_of_a_layer_and_a_head_are_counted_by_their_shape(monkeypatch):
    monkeypatch.setattr(calibrate, "quickest", lambda function, device="cpu": function() or 0.5)
    shape = DecoderShape(hidden=16, mlp=24, layers=1, heads=2, kv_heads=1, head_dim=8, vocab=32)
    with torch.inference_mode(False):
        layer, head = calibrate.time_layer(shape, "cpu", False), calibrate.time_head(shape, "cpu")
    assert layer["layer_forward"].value == 2 * shape.layer_parameters * calibrate.POSITIONS / 0.5
    assert layer["layer_train"].value == 3 * layer["layer_forward"].value
    assert head["head"].value == 6 * 32 * 16 * calibrate.TARGETS / 0.5


@pytest.mark.slow
def test_two_processes_send_each_other_bytes():
    found = calibrate.time_collective()
    assert found["collective"].value > 1e6 and 0 < found["collective_latency"].value < 1


def test_hearing_costs_what_was_measured_of_hearing_and_a_voice_that_tells_its_words_is_not_aligned(large):
    """A card that timed reading alone is taken for both, as cards were before."""
    recipe = large.model_copy(update={"align": large.align.model_copy(update={"method": "whisper"})})
    measured = {"hear layer": 3e-9, "hear rest": 0.0, "read layer": 1e-9, "read rest": 0.0}
    card = replace(H100, figures={name: Figure(value, "measured", name) for name, value in measured.items()})
    steps = Forecast(recipe, card).steps
    ratio = 3 * steps.word_positions / TOKENS_PER_WORD
    assert steps.hears(100).value / steps.read(100).value == pytest.approx(ratio)
    told = {
        voice: engine_of(voice).tells_words for voice in ("piper-joe", "kokoro-torch:af_heart@here", "kokoro:bm_lewis")
    }
    assert list(told.values()) == [True, True, False]
    told = StageForecast("align", Figure(0.0, "assumed", ""))
    Forecast(recipe, H100).align(told, 1000.0, {"piper-joe": 1.0, "kokoro:af_heart": 3.0})
    assert [part.source.split(":")[0] for part in told.parts[::2]] == ["align told", "align whisper"]
    assert told.parts[2].value / told.parts[0].value == pytest.approx(
        3 * 5000 / 300 * 16, rel=0.01
    )  # 16 workers, 1 GPU


def test_pieces_are_as_long_as_the_recipe_cuts_them(large):
    words = piece_words(large)
    assert min(words) >= 1 and max(words) <= 15 and sum(words) == 64 * 80
    assert 6 < sum(words) / len(words) < 10


def test_words_of_tasks_are_counted_where_their_items_are_here():
    demo = load_recipe(RECIPES / "demo.yaml")
    questions, choices, number = task_words(demo)
    assert number == 60 and 300 < questions < 1200 and 240 <= choices < 1200
    assert task_words(load_recipe(RECIPES / "salad-3b.yaml"))[2] == 6000  # assumed: a thousand each
