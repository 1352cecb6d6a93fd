"""`salad eval --speech`: voices, recordings, cascade, noise and controls, on tiny random models and made-up sounds."""

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from salad.align.asr import Transcripts, load_asr
from salad.audio import write_flac
from salad.cli import app
from salad.config import Evaluate, Recipe
from salad.config.conditions import condition
from salad.evaluation.benchmark_task import find_task
from salad.evaluation.degrade import disturbed
from salad.evaluation.next_sentence import NextSentenceItem
from salad.evaluation.prompt import segments
from salad.evaluation.recordings import everything_spoken, find_recordings, others
from salad.evaluation.spoken_benchmark import SpeechInput, _places
from salad.evaluation.spoken_results import error_rates
from salad.evaluation.task_items import TaskItem
from salad.files import read_json, read_jsonl, write_json, write_jsonl
from salad.measure.results import Accuracies
from salad.model import SaladConfig, SaladForConditionalGeneration
from salad.pipeline import multiple_choice as choices
from salad.pipeline.multiple_choice import accuracies
from salad.pipeline.run import Run
from salad.synthesize.voices import load_voice
from salad.testing.listeners import save_recogniser
from salad.types import Result, SaladError

RATE_HZ = 16_000
CONDITIONS = ["white:10", "reverb", "codec:opus", "codec:mp3", "speed:1.2", "telephone", "white:10+telephone"]


def tone(pitch, seconds=0.4):
    time_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return (0.3 * np.sin(2 * np.pi * pitch * time_s) * (1 + np.sin(2 * np.pi * 5 * time_s)) / 2).astype(np.float32)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """RUN/stage2/model beside RUN/recipe.json, and RUN/llm, the text base."""
    folder = tmp_path_factory.mktemp("run")
    bytes_ = {"<|endoftext|>": 0} | {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}
    bpe = Tokenizer(models.BPE(vocab=bytes_, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    llm = LlamaForCausalLM(
        LlamaConfig(vocab_size=257, num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.2, **shape)
    )
    llm.save_pretrained(folder / "llm")
    adapter = {"adapter_layers": 1, "adapter_width": 16, "adapter_mlp": 24, "adapter_heads": 2, "adapter_kv_heads": 1}
    config = SaladConfig(llm_config=llm.config, encoder="log-mel", stride=4, **adapter)
    model = SaladForConditionalGeneration.from_llm(llm, config)
    with torch.no_grad():  # loud enough that what is heard decides
        model.adapter.requires_grad_(False)
        for parameter in model.adapter.parameters():
            parameter.mul_(3.0)
    model.save_pretrained(folder / "stage2" / "model")
    for place in (folder / "llm", folder / "stage2" / "model"):
        tokenizer.save_pretrained(place)
    shares = {"voices": {"shares": {"kokoro:af_heart": 1.0}}}
    write_json(folder / "recipe.json", {"assets": {"llm": str(folder / "llm")}, "corpus": shares, "synthesize": shares})
    return folder


@pytest.fixture(scope="module")
def asr_folder(tmp_path_factory):
    return save_recogniser(tmp_path_factory.mktemp("asr"))


@pytest.fixture
def items(tmp_path):
    words = "boats men seas lamps nights shores sands mists".split()
    rows = [
        {"id": f"q{i}", "context": f"All {words[i]} are old", "choices": ["and cold", "or new"], "answer": i % 2}
        for i in range(8)
    ]
    write_jsonl(tmp_path / "mine.jsonl", rows)
    for i in range(8):
        write_flac(tmp_path / "sounds" / f"q{i}.flac", tone(150 + 90 * i), RATE_HZ)
    return tmp_path


def evaluate(run_dir, items, *more, out="out", recorded=True):
    command = ["eval", str(run_dir / "stage2" / "model"), "--tasks", str(items / "mine.jsonl"), "--speech"]
    command += ["--out", str(items / out), "--audio-cache", str(items / "cache"), "--resamples", "200"]
    command += ["--recordings", str(items / "sounds")] if recorded else []
    return CliRunner().invoke(app, [*command, *map(str, more)])


def samples(items, system, out="out"):
    [path] = (items / out / system).glob("samples_mine_*.jsonl")
    return read_jsonl(path)


def scores(rows):
    return [[float(logprob) for logprob, _ in row["filtered_resps"]] for row in rows]


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("voice", ["piper-joe", "kokoro:jf_alpha"])
def test_a_run_tells_its_own_items_and_its_tasks_together(run_dir, items, recipe_values, tmp_path, voice):
    """With a real voice and a real ASR: what the report's table of tasks is made of."""
    recipe_values["run_dir"] = str(run_dir)
    recipe_values["corpus"] |= {"heldout_voice": voice}
    recipe_values["evaluate"] = {"bootstrap": 200, "tasks": [str(items / "mine.jsonl")]}
    run = Run(Recipe.model_validate(recipe_values))
    own = [NextSentenceItem(f"d{i}:8", f"d{i}", "music", (0, 8), "Once", ("a", "b", "c", "d"), 0) for i in range(4)]
    right, wrong = (0.0, -1.0, -1.0, -1.0), (-1.0, 0.0, -1.0, -1.0)
    answers = {
        "text_base": [Result(item.id, 0, right) for item in own],
        "speech_adapted": [Result(item.id, 0, wrong) for item in own],
    }
    figures = accuracies(run, own, answers, tmp_path / "evaluate")
    nexts, task, everything = figures.tasks
    assert (nexts.task, nexts.gap.value, nexts.chance) == ("next sentence", 1.0, 0.25)
    assert (task.task, task.n, task.chance) == ("mine", 8, 0.5)
    lost = task.text_base.value - task.speech_adapted.value
    assert task.gap.value == pytest.approx(lost) and all((task.text_adapted, task.cascade, task.blind, task.other))
    kept = tmp_path / "evaluate" / "tasks"
    rights = [samples(kept, name, ".") for name in ("text_base", f"speech_adapted/{voice.replace(':', '-')}")]
    by_token = [sum(row["acc_token"] for row in rows) for rows in rights]  # as the next sentences are scored
    assert everything.metric == "acc_token" and everything.n == 12
    assert everything.gap.value == pytest.approx((4 + by_token[0] - by_token[1]) / 12)
    alone = accuracies(run, [], {}, tmp_path / "evaluate")  # no next-sentence items: the task is told all the same
    assert alone == Accuracies(tasks=(task,))
    heard = samples(tmp_path, f"cascade/{voice.replace(':', '-')}", "evaluate/tasks")
    assert any(word in row["heard"][0].lower() for row in heard for word in ("boats", "seas", "lamps"))


def test_a_recipe_gives_its_tasks_the_examples_and_items_that_it_names(recipe_values, tmp_path, monkeypatch):
    """What `salad eval --num-fewshot --data --hub` takes, by the same path."""
    asked = {}

    def run_eval(model, tasks, out, settings, speech, **more):
        asked.update(more, tasks=tasks, settings=settings, voices=speech.voices)
        raise InterruptedError

    monkeypatch.setattr(choices, "run_eval", run_eval)
    recipe_values["evaluate"] = {"tasks": ["piqa"], "num_fewshot": 5, "task_data": str(tmp_path), "task_hub": True}
    with pytest.raises(InterruptedError):
        accuracies(Run(Recipe.model_validate(recipe_values)), [], {}, tmp_path)
    assert asked["settings"].num_fewshot == 5 and asked["tasks"] == ("piqa",) and asked["voices"] == ("first",)
    assert asked["data_dir"] == tmp_path and asked["hub"] is True
    with pytest.raises(ValueError, match="num_fewshot"):
        Recipe.model_validate(recipe_values | {"evaluate": {"num_fewshot": 6}})


# The table


def test_text_speech_and_cascade_answer_the_same_items(run_dir, items, asr_folder):
    done = evaluate(
        run_dir, items, "--asr", asr_folder, "--num-fewshot", 2, "--noise", "white:10", "--control", "silence"
    )
    assert done.exit_code == 0, done.output
    systems = ["text_base", "text_adapted", "speech_adapted/recordings", "cascade/recordings"]
    own = {system: samples(items, system) for system in systems}
    assert len({json.dumps([(row["doc"], row["num_shots"]) for row in rows]) for rows in own.values()}) == 1
    assert {row["num_shots"] for row in own["text_base"]} == {2} and len(own["text_base"]) == 6
    heard = own["speech_adapted/recordings"][0]
    assert heard["said"] == ["All boats are old", "All men are old", "All seas are old"]
    assert scores(own["text_base"]) == scores(own["text_adapted"])  # the same weights read the same text
    assert scores(own["speech_adapted/recordings"]) != scores(own["text_base"])
    spoken = own["cascade/recordings"][0]
    assert spoken["said"] == heard["said"] and len(spoken["heard"]) == 3
    assert spoken["arguments"]["gen_args_0"]["arg_0"].startswith(spoken["heard"][0])
    figures = read_json(items / "out" / "figures.json")["lost"]["text_adapted"]["tasks"]["mine"]
    assert (figures["value"], figures["low"], figures["high"]) == (0.0, 0.0, 0.0)
    main, _, more = done.output.partition("\nVoices")
    assert "gap: text_base - speech_adapted/recordings" in main and "forgetting: text_base - text_adapted" in main
    assert "white" not in main and "white:10" in more and "silence" in more
    assert read_json(items / "out" / "speech.json")["systems"]["cascade/recordings"]["wer"] > 0.5  # a random ASR


def test_the_same_run_gives_the_same_bytes(run_dir, items, asr_folder):
    arguments = ["--asr", asr_folder, "--noise", "white:5,reverb", "--control", "shuffled"]
    first = evaluate(run_dir, items, *arguments, out="one")
    (items / "cache").rename(items / "put-away")
    second = evaluate(run_dir, items, *arguments, out="two")
    assert first.exit_code == second.exit_code == 0, second.output
    assert files(items / "one") == files(items / "two")
    again = CliRunner().invoke(app, ["eval", "--score-only", "--out", str(items / "two")])
    assert again.output == (items / "one" / "table.md").read_text() and again.output in second.output


def test_what_is_heard_decides(run_dir, items):
    """Silence is not speech, shuffled recordings are those of others, and noise is not clean."""
    done = evaluate(run_dir, items, "--asr", "none", "--control", "shuffled,silence", "--noise", "white:0")
    assert done.exit_code == 0, done.output
    clean, shuffled, silent, noisy = (
        scores(samples(items, f"speech_adapted/recordings{part}")) for part in ("", "/shuffled", "/silence", "/white-0")
    )
    swapped = others([f"q{i}" for i in range(8)], 0)
    for i in range(8):
        assert shuffled[i] != clean[i] != silent[i]
        assert shuffled[i] == pytest.approx(clean[int(swapped[f"q{i}"][1:])], abs=1e-4)  # all items have these options
    assert np.ptp(np.array(silent), axis=0) == pytest.approx(0, abs=1e-4)  # blind: one answer to all
    assert noisy != clean


def test_shuffling_leaves_nobody_their_own():
    for number in (2, 3, 50):
        ids = [str(i) for i in range(number)]
        swapped = others(ids, 3)
        assert sorted(swapped) == sorted(swapped.values()) == sorted(ids)
        assert all(own != other for own, other in swapped.items())
    assert others(ids, 3) == swapped != others(ids, 4)
    with pytest.raises(SaladError, match="two items"):
        others(["a"], 0)


# Recordings and voices


def test_missing_and_unreadable_recordings_are_counted(run_dir, items):
    (items / "sounds" / "q1.flac").unlink()
    (items / "sounds" / "q4.flac").write_bytes(b"fLaC not a sound")
    write_flac(items / "sounds" / "mine" / "q5.flac", tone(900), RATE_HZ)  # the task's own folder goes first
    done = evaluate(run_dir, items, "--asr", "none")
    assert done.exit_code == 0, done.output
    aside = {row["id"]: row["reason"] for row in read_jsonl(items / "out" / "quarantine.jsonl")}
    assert set(aside) == {"mine/q1", "mine/q4"}
    assert "no recording: expected q1.wav" in aside["mine/q1"] and "cannot be decoded" in aside["mine/q4"]
    kept = [row["doc"]["id"] for row in samples(items, "text_base")]
    assert kept == ["q0", "q2", "q3", "q5", "q6", "q7"]
    assert read_json(items / "out" / "figures.json")["skipped"] == {"mine": 2}


@pytest.mark.parametrize(("own", "name"), [("4", "4.WAV"), ("é", "é.wav"), ("é", "%C3%A9.wav"), ("7?x", "7?x.wav"),
                                           ("a/b", "a%2Fb.FLAC"), ("50%", "50%.flac")])  # fmt: skip
def test_a_recording_is_found_by_the_id_itself_or_quoted(tmp_path, own, name):
    soundfile.write(tmp_path / name, tone(300), RATE_HZ)
    found, why = find_recordings(tmp_path, [f"mine/{own}", "mine/" + 300 * "é"])
    assert found[f"mine/{own}"].path.name == name and list(why) == ["mine/" + 300 * "é"]


def test_a_cache_that_cannot_be_written_gives_way_to_another_folder(run_dir, items, asr_folder, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(items))
    nowhere = items / "mine.jsonl" / "cache"  # below a file, where nobody can write
    done = evaluate(run_dir, items, "--asr", asr_folder, "--audio-cache", nowhere)
    assert done.exit_code == 0, done.output
    assert "cannot be written to" in " ".join(done.stderr.split())
    assert list(items.glob("salad-eval-speech-*/transcripts/*/*/*.json"))


class Tones(BaseHTTPRequestHandler):
    """The OpenAI speech protocol: a tone as long as the text and as high as its letters; "refuse" is refused."""

    asked: list[str] = []

    def do_POST(self):
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        self.asked.append(text)
        if "seas" in text:
            return self.send_error(400)
        file = io.BytesIO()
        soundfile.write(file, tone(100 + sum(text.encode()) % 700, 0.03 * len(text)), RATE_HZ, format="WAV")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(file.getvalue())

    def log_message(self, *_):
        pass


def test_voices_speak_each_text_once_and_are_compared(run_dir, items):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Tones)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Tones.asked = []
    load_voice.cache_clear()
    voice = f"openai:m:one@http://127.0.0.1:{server.server_port}/v1"
    try:
        arguments = ["--voices", voice, "--asr", "none", "--workers", 1]
        done = evaluate(run_dir, items, *arguments)
        assert done.exit_code == 0, done.output
        again = evaluate(run_dir, items, *arguments, out="again", recorded=False)
        assert again.exit_code == 0, again.output
        spoken = list(Tones.asked)
        everything = evaluate(run_dir, items, *arguments, "--form", "all", out="all", recorded=False)
        assert everything.exit_code == 0, everything.output
    finally:
        server.shutdown()
        server.server_close()
    assert spoken.count("All men are old") == 1 and len(set(spoken)) == 8  # the second run found them in the cache
    assert [row["id"] for row in read_jsonl(items / "out" / "quarantine.jsonl")] == ["mine/q2"]  # "seas" is refused
    report = read_json(items / "out" / "speech.json")
    rows = {row["voice"]: row for row in report["systems"].values()}
    assert rows[voice]["trained"] == "no" and rows["recordings"]["trained"] == "unknown"
    values = [row["accuracy"]["value"] for row in rows.values()]
    spread = report["spread"]["speech_adapted"]
    assert (spread["lowest"], spread["highest"]) == (min(values), max(values)) and rows[voice]["n"] == 7
    letters = samples(items, "speech_adapted/openai-m-one", "all")[0]
    assert letters["options"] == ["A", "B"] and letters["said"] == ["All boats are old\nA. and cold\nB. or new"]
    assert samples(items, "text_base", "all")[0]["arguments"]["gen_args_1"]["arg_0"].endswith("B. or new\nAnswer:")


def test_voices_that_differ_by_their_place_alone_have_names_of_their_own():
    one, two = (f"openai:m:one@http://127.0.0.1:{port}/v1" for port in (8001, 8002))
    places = _places(["recordings", one, two, "kokoro:af_heart"])
    assert len(set(places.values())) == 4 and places["kokoro:af_heart"] == "kokoro-af_heart"
    assert places[one].startswith("openai-m-one-") and _places([two])[two] == "openai-m-one"


def test_everything_spoken_leaves_voicebenchs_own_form():
    task, _ = find_task("voicebench_mmsu")
    assert everything_spoken(task) is task
    item = TaskItem("1", "What falls?", ("rain", "sky"), 0)
    spoken = segments(everything_spoken(find_task("arc_easy")[0]), item, "speech")
    assert [s.modality for s in spoken] == ["speech", "text"] and spoken[0].text == "What falls?\nA. rain\nB. sky"
    assert spoken[0].owner == "arc_easy/1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--voices", "piper-jo"], "voice: got 'piper-jo', expected one of piper-joe"),
        (["--noise", "hum"], "noise: got 'hum', expected white"),
        (["--noise", "speed:9"], "a number from 0.5 to 2"),
        (["--noise", "speed"], "noise: got 'speed'"),
        (["--control", "loud"], "--control: got 'loud', expected shuffled or silence"),
        (["--asr-precision", "int4"], "--asr-precision: got 'int4', expected float32 or int8"),
        (["--form", "half"], "--form: got 'half', expected context or all"),
        (["--voices", "piper-joe,piper-joe"], "expected each once"),
        (["--recordings", "nowhere"], "nowhere is no folder"),
        (["--asr", "no/such"], "no/such"),
    ],
)
def test_bad_arguments(run_dir, items, arguments, words):
    done = evaluate(run_dir, items, *arguments)
    assert done.exit_code == 2 and words in " ".join(done.output.split()), done.output


def test_a_text_model_cannot_hear_and_speech_must_be_asked_for(run_dir, items):
    base = ["eval", str(run_dir / "llm"), "--tasks", str(items / "mine.jsonl"), "--out", str(items / "out")]
    assert "cannot hear" in CliRunner().invoke(app, [*base, "--speech"]).output
    assert "add --speech" in CliRunner().invoke(app, [*base, "--noise", "reverb"]).output


# ASR


def test_transcripts_are_made_once_and_by_whom_is_known(asr_folder, tmp_path, monkeypatch):
    asr = load_asr(str(asr_folder))
    text = asr.transcribe(tone(300))
    assert text == asr.transcribe(tone(300)) and set(text) <= set("ETA ")
    heard = Transcripts(asr, tmp_path)
    assert heard.of("one", lambda: tone(300)) == text
    monkeypatch.setattr(asr, "transcribe", lambda samples: pytest.fail("kept, so not transcribed again"))
    assert heard.of("one", lambda: pytest.fail("known, so not read again")) == text
    assert Transcripts(asr, tmp_path).of("another name", lambda: tone(300)) == text
    (tmp_path / "empty").mkdir()
    with pytest.raises(SaladError, match="neither model.bin nor config.json"):
        load_asr(str(tmp_path / "empty"))


def test_the_cascade_s_recogniser_computes_as_in_a_run():
    assert SpeechInput().asr_precision == Evaluate.model_fields["asr_precision"].default == "int8"


def test_error_rates_count_over_all_words():
    rows = [
        SimpleNamespace(said=["A shot.", "It cost 3 pounds."], heard=["a shot", "It cost three pounds"]),
        SimpleNamespace(said=["A shot.", "Old men"], heard=["a shot", "cold men sing"]),
    ]
    found = error_rates({"t": rows})
    assert (found.wer, found.cer) == (pytest.approx(2 / 7), pytest.approx(6 / (6 + 20 + 7)))


# Noise


@pytest.mark.parametrize("snr_db", [-5, 0, 10, 30])
def test_noise_has_the_asked_level(snr_db):
    clean = tone(200, 1.0)
    noise = disturbed(clean, RATE_HZ, f"white:{snr_db}", 1) - clean
    got_db = 10 * np.log10(np.mean(clean.astype(float) ** 2) / np.mean(noise.astype(float) ** 2))
    assert got_db == pytest.approx(snr_db, abs=0.05)
    half = len(noise) // 2
    assert np.std(noise[:half]) == pytest.approx(np.std(noise[half:]), rel=0.05)  # over pauses too


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions_keep_length_and_are_the_same_by_seed(name):
    clean = tone(440, 0.5)
    once, again = (disturbed(clean, RATE_HZ, name, 3) for _ in range(2))
    assert np.array_equal(once, again) and once.dtype == np.float32 and np.isfinite(once).all()
    assert len(once) == (len(clean) if not name.startswith("speed") else pytest.approx(len(clean) / 1.2, abs=2))
    assert not np.array_equal(once[:4000], clean[:4000])
    drawn = not np.array_equal(once, disturbed(clean, RATE_HZ, name, 4))
    assert drawn == name.startswith(("white", "reverb"))
    for short in (clean[:1], clean[:30]):
        assert np.isfinite(disturbed(short, RATE_HZ, name, 3)).all()


def spectrum(samples, low_hz, high_hz):
    power = np.abs(np.fft.rfft(samples.astype(float))) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    return float(power[(hz >= low_hz) & (hz < high_hz)].sum())


def test_a_telephone_passes_its_band_alone():
    noise = np.random.default_rng(0).standard_normal(RATE_HZ).astype(np.float32) * 0.1
    line = disturbed(noise, RATE_HZ, "telephone", 0)
    assert spectrum(line, 500, 3000) == pytest.approx(spectrum(noise, 500, 3000), rel=0.05)
    assert spectrum(line, 0, 150) < 0.01 * spectrum(noise, 0, 150)
    assert spectrum(line, 4100, 8000) < 1e-3 * spectrum(noise, 4100, 8000)


def test_speed_moves_the_pitch_and_a_room_rings():
    fast = disturbed(tone(400, 1.0), RATE_HZ, "speed:1.25", 0)
    assert np.fft.rfftfreq(len(fast), 1 / RATE_HZ)[np.abs(np.fft.rfft(fast)).argmax()] == pytest.approx(500, abs=2)
    click = np.zeros(RATE_HZ, np.float32)
    click[0] = 1.0
    room = disturbed(click, RATE_HZ, "reverb:0.4", 0).astype(float)
    parts = [np.sum(room[a : a + 1600] ** 2) for a in (1600, 3200)]  # 0.1 s apart: 60 dB * 0.1 / 0.4
    assert 10 * np.log10(parts[0] / parts[1]) == pytest.approx(15, abs=1)
    assert np.sum(room**2) == pytest.approx(1.0, rel=1e-3)


def test_conditions_are_written_in_full():
    assert (
        condition("white") == "white:10" and condition("reverb") == "reverb:0.5" and condition("codec") == "codec:opus"
    )
    assert condition("white:5.0+telephone") == "white:5+telephone"
    with pytest.raises(SaladError, match="got 'codec:aac'"):
        condition("codec:aac")
