"""The feature cache: mapped and never loaded, keyed by its encoder, damage found; and equal to encoding on the fly."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salad.audio import read_audio, resample
from salad.config import load_recipe
from salad.model.encoders import job as encoding
from salad.model.encoders.job import FlyFrames
from salad.model.teacher import Teacher
from salad.pipeline import speech_jobs as speech
from salad.pipeline.run import Run
from salad.pipeline.speech_jobs import encode, open_frames
from salad.pipeline.up_to_date import stage_inputs
from salad.sequence import FrameShard, FrameStore, check_shard, tokenise
from salad.sequence.examples import all_pieces, build_example, draw_layout
from salad.sequence.frames import Piece, write_frames
from salad.testing.corpora import make_utterances
from salad.testing.models import make_model, save_mimi
from salad.training.tasks import DistillTask
from salad.types import SaladError


@pytest.fixture
def setting(recipe_values, write_recipe, tmp_path):
    """A run whose encoder needs no files, and its utterances."""
    values = recipe_values | {
        "assets": {"encoder": "log-mel"},
        "engine": {"workers": 1, "shard_items": 8},
        "sequence": {"text_words": [1, 3], "speech_words": [2, 4], "layouts": 2},
    }
    recipe = load_recipe(write_recipe(values))
    return Run(recipe), make_utterances(tmp_path), tmp_path / "frames"


def pieces_with_frames(lengths, dim=3):
    rng = np.random.default_rng(1)
    pieces = [Piece(f"ü{i // 3}", i, i + 1, 0, 1) for i in range(len(lengths))]
    return pieces, [rng.normal(size=(n, dim)).astype(np.float16) for n in lengths]


def test_frames_are_copied_once_on_their_way_to_disk(tmp_path):
    pieces = [Piece(f"u{n}", 0, 1, 0, 1) for n in range(64)]
    frames = [np.full((200, 256), n, np.float16) for n in range(64)]
    tracemalloc.start()
    write_frames(tmp_path, pieces, frames)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * sum(one.nbytes for one in frames)  # of which a megabyte hashes the file
    assert all(np.array_equal(FrameShard(tmp_path).get(p.key), own) for p, own in zip(pieces, frames, strict=True))


@given(st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=5))
def test_every_piece_comes_back(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("shards")
    expected, folders = {}, []
    for number, lengths in enumerate(shards):
        pieces, frames = pieces_with_frames(lengths)
        pieces = [Piece(f"{number}-{p.utterance_id}", *p.key[1:], 0, 1) for p in pieces]
        folders.append(folder / str(number))
        folders[-1].mkdir()
        write_frames(
            folders[-1], pieces, frames, encoder="e", utterance_ids=["silent", *(p.utterance_id for p in pieces)]
        )
        expected |= {p.key: f for p, f in zip(pieces, frames, strict=True)}
    store = FrameStore(folders, "e", open_shards=2)
    assert len(store) == len(expected)
    for key, frames in expected.items():
        assert np.array_equal(store.get(key), frames) and store.get(key).dtype == np.float16
    for key in [("absent", 0, 1), ("silent", 0, 1)]:
        with pytest.raises(SaladError, match="no piece"):
            store.get(key)


def resident_bytes():
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def test_opening_reads_no_frames_and_views_share_the_file(tmp_path):
    """64 MB of frames are opened and one piece read: memory grows by pages, not by the file."""
    pieces, _ = pieces_with_frames([4] * 8)
    big = np.zeros((1_000_000, 32), np.float16)
    write_frames(tmp_path, pieces, [big, *[np.full((4, 32), i, np.float16) for i in range(1, 8)]], encoder="e")
    before = resident_bytes()
    store = FrameStore([tmp_path], "e")
    view = store.get(pieces[5].key)
    assert resident_bytes() - before < 16 * 2**20
    assert np.array_equal(view, np.full((4, 32), 5)) and not view.flags.owndata
    torch.from_numpy(view)  # no warning that it is read-only
    view[:] = 9  # copy-on-write: the file does not change
    assert FrameStore([tmp_path], "e").get(pieces[5].key).max() == 5


def test_an_array_given_for_several_pieces_is_kept_once(tmp_path):
    pieces, frames = pieces_with_frames([5, 5, 5])
    write_frames(tmp_path, pieces, [frames[0]] * 3)
    assert FrameShard(tmp_path).num_frames == 5 and np.array_equal(FrameStore([tmp_path]).get(pieces[2].key), frames[0])


@pytest.mark.parametrize("kind", [np.float16, np.uint16])
def test_arrays_that_lie_column_by_column_come_back(tmp_path, kind):
    pieces, _ = pieces_with_frames([6, 6])
    arrays = [np.arange(18, dtype=kind).reshape(3, 6).T + kind(i) for i in range(2)]
    assert not arrays[0].flags.c_contiguous
    write_frames(tmp_path, pieces, arrays)
    for piece, array in zip(pieces, arrays, strict=True):
        assert np.array_equal(FrameStore([tmp_path], decode=lambda codes: codes).get(piece.key), array)


def test_same_pieces_same_bytes(tmp_path):
    pieces, frames = pieces_with_frames([3, 4, 5])
    raw = []
    for name in "ab":
        (tmp_path / name).mkdir()
        write_frames(tmp_path / name, pieces, frames, encoder="e")
        raw.append([(tmp_path / name / f).read_bytes() for f in ("frames.safetensors", "frames.index.safetensors")])
    assert raw[0] == raw[1]


@pytest.mark.parametrize("name", ["frames.safetensors", "frames.index.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "short", "empty", "missing", "longer", "noise"])
def test_damage_is_refused_by_name(tmp_path, name, damage):
    pieces, frames = pieces_with_frames([3, 4, 5])
    write_frames(tmp_path, pieces, frames, encoder="e")
    path = tmp_path / name
    raw = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        cuts = {
            "cut": raw[: len(raw) // 2],
            "short": raw[:-1],
            "empty": b"",
            "longer": raw + b"\0",
            "noise": b"x" * 500,
        }
        path.write_bytes(cuts[damage])
    for read in (lambda: FrameStore([tmp_path], "e"), lambda: FrameShard(tmp_path)):
        with pytest.raises(SaladError, match=f"{name}.*remove the folder and run again"):
            read()


def test_a_flipped_bit_is_found_by_the_deep_check(tmp_path):
    pieces, frames = pieces_with_frames([3, 4, 5])
    write_frames(tmp_path, pieces, frames, encoder="e")
    assert check_shard(tmp_path, "e", "frames", deep=True) == ""
    path = tmp_path / "frames.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert "hash" in check_shard(tmp_path, "e", deep=True)


def test_another_encoder_s_shard_is_refused(tmp_path):
    pieces, frames = pieces_with_frames([3])
    write_frames(tmp_path, pieces, frames, encoder="old")
    with pytest.raises(SaladError, match="another encoder"):
        FrameStore([tmp_path], "new")
    with pytest.raises(SaladError, match="holds frames, expected codes"):
        FrameStore([tmp_path], "old", "codes")


def frames_of(run, store, utterances, layout=0):
    out = []
    for u in utterances:
        spans = draw_layout(u, layout, run.recipe.sequence, run.recipe.seed)
        out += [store.get((u.id, s.start_word, s.end_word)) for s in spans if s.modality == "speech"]
    return out


def equal(a, b):
    return len(a) == len(b) > 0 and all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def with_sequence(run, **changes):
    return Run(run.recipe.model_copy(update={"sequence": run.recipe.sequence.model_copy(update=changes)}))


def with_encoder(run, name):
    return Run(run.recipe.model_copy(update={"assets": run.recipe.assets.model_copy(update={"encoder": str(name)})}))


def test_a_changed_encoder_never_reads_a_stale_cache(setting, tmp_path, capsys):
    """Other weights in a folder of the same layout: every shard is encoded again, as if there had been none."""
    run, utterances, folder = setting
    for seed in (0, 1):
        save_mimi(tmp_path / f"mimi{seed}", seed)
    first, second = (with_encoder(run, tmp_path / f"mimi{seed}") for seed in (0, 1))
    before = [x.copy() for x in frames_of(run, encode(first, folder, utterances, "t", layouts=2), utterances)]
    after = frames_of(run, open_frames(second, folder, utterances, layouts=2), utterances)
    fresh = frames_of(run, encode(second, tmp_path / "fresh", utterances, "t", layouts=2), utterances)
    assert equal(after, fresh) and not any(np.array_equal(x, y) for x, y in zip(before, after, strict=True))
    assert capsys.readouterr().err.replace("\n", "").count("another encoder") == 3
    with pytest.raises(SaladError, match="another encoder"):
        FrameStore(sorted(folder.glob("shard-*")), speech.expected(first)[0])


def test_codes_become_frames_on_reading_and_take_little_room(setting, tmp_path):
    """Mimi's codes: 12.5 Hz x codebooks x 2 bytes, and the frames that the encoder itself gives for them."""
    run, utterances, folder = setting
    save_mimi(tmp_path / "mimi")
    codes = with_encoder(run, f"{tmp_path / 'mimi'}:codes8")
    frames = with_sequence(codes, stored="frames")
    kept = encode(codes, folder, utterances, "t", layouts=2)
    whole = encode(frames, tmp_path / "frames16", utterances, "t", layouts=2)
    assert (kept.shards[0].kind, whole.shards[0].kind) == ("codes", "frames")
    assert equal(frames_of(run, kept, utterances), frames_of(run, whole, utterances))
    assert kept.shards[0].num_frames == whole.shards[0].num_frames
    size = (folder / "shard-00000" / "frames.safetensors").stat().st_size
    assert 16 * kept.shards[0].num_frames <= size <= 16 * kept.shards[0].num_frames + 200
    with pytest.raises(SaladError, match="frames_of_codes"):
        frames_of(run, FrameStore(sorted(folder.glob("shard-*"))), utterances)
    again = open_frames(frames, folder, utterances, layouts=2)  # kept as codes, wanted as frames: encoded again
    assert again.shards[0].kind == "frames"


def test_pieces_count_the_recording_s_own_samples(setting, tmp_path):
    """16 kHz recordings, an encoder that hears 24 kHz: frames cover the words, not two thirds of them."""
    run, utterances, folder = setting
    save_mimi(tmp_path / "mimi")
    store = encode(with_encoder(run, tmp_path / "mimi"), folder, utterances, "t", layouts=1)
    for u in utterances:
        for piece in all_pieces(u, run.recipe.sequence, seed=run.recipe.seed, layouts=1):
            seconds = (piece.end_sample - piece.start_sample) / 16_000
            assert abs(len(store.get(piece.key)) - seconds * 12.5) <= 1.01


@pytest.mark.parametrize("how", ["cut", "missing file", "missing shard", "half a shard"])
def test_a_stage_below_mends_what_is_broken(setting, how, capsys):
    run, utterances, folder = setting
    whole = [x.copy() for x in frames_of(run, encode(run, folder, utterances, "t", layouts=2), utterances)]
    untouched = (folder / "shard-00000" / "frames.safetensors").stat().st_mtime_ns
    path = folder / "shard-00001" / "frames.safetensors"
    if how == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif how == "missing file":
        path.unlink()
    else:
        path.parent.rename(folder / ".shard-00001" if how == "half a shard" else folder / "gone")
    assert equal(whole, frames_of(run, open_frames(run, folder, utterances, layouts=2), utterances))
    assert (folder / "shard-00000" / "frames.safetensors").stat().st_mtime_ns == untouched
    if how in ("cut", "missing file"):
        assert "shard-00001" in capsys.readouterr().err.replace("\n", "")


def test_a_sound_cache_needs_no_audio(setting):
    run, utterances, folder = setting
    whole = [x.copy() for x in frames_of(run, encode(run, folder, utterances, "t", layouts=2), utterances)]
    for path in folder.parent.glob("*.wav"):
        path.unlink()
    assert equal(whole, frames_of(run, open_frames(run, folder, utterances, layouts=2), utterances))


def test_shards_tell_their_utterances(setting):
    run, utterances, folder = setting
    encode(run, folder, utterances, "t", layouts=1)
    shards = [FrameShard(path) for path in sorted(folder.glob("shard-*"))]
    found = [shard.utterance_id(row) for shard in shards for row in range(shard.num_utterances)]
    assert found == [u.id for u in utterances] and shards[0].num_utterances == 8
    assert not list(folder.rglob("utterances.jsonl"))  # the manifest above has them


@pytest.mark.parametrize("encoder", ["log-mel", "mimi", "mimi:codes8"])
def test_cache_and_fly_give_the_same_loss(setting, encoder, tokenizer, tmp_path):
    """Identical float16 frames, so an identical loss and identical gradients."""
    run, utterances, folder = setting
    if encoder != "log-mel":
        save_mimi(tmp_path / "mimi")
        encoder = f"{tmp_path}/{encoder}"
    run = with_encoder(run, encoder)
    cache = encode(run, folder, utterances, "t", layouts=2)
    fly = encode(with_sequence(run, features="fly"), folder, utterances, "t", layouts=2)
    assert isinstance(fly, FlyFrames) and len(cache) == len(fly)
    for layout in (0, 1):
        assert equal(frames_of(run, cache, utterances, layout), frames_of(run, fly, utterances, layout))
    results = []
    for store in (cache, fly):
        torch.manual_seed(0)
        model = make_model(dim=speech.encoder_of(run).frame_dim)
        pack = []
        for u in utterances[:4]:
            tokens = tokenise(tokenizer, u.text)
            tokens = type(tokens)(tokens.token_ids % 60, tokens.word_starts)
            pack.append(build_example(u, tokens, draw_layout(u, 0, run.recipe.sequence, 0), store, 0))
        loss, _ = DistillTask(model, Teacher(model, cache=False), [pack], alpha=0.5, context=2048).loss(pack)
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.adapter.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_fly_encodes_when_asked_and_remembers_few(setting, monkeypatch):
    run, utterances, folder = setting
    run = with_sequence(run, features="fly")
    heard = []
    plain = encoding.features_of
    monkeypatch.setattr(encoding, "features_of", lambda e, audio, *rest: heard.append(audio) or plain(e, audio, *rest))
    fly = encode(run, folder, utterances, "t", layouts=2)
    assert isinstance(fly, FlyFrames) and not folder.exists() and heard == []
    frames_of(run, fly, utterances[:3])
    frames_of(run, fly, utterances[:3])
    assert heard == [u.audio for u in utterances[:3]]
    assert equal(frames_of(run, open_frames(run, folder, utterances, layouts=2), utterances),
                 frames_of(run, fly, utterances))  # fmt: skip
    with pytest.raises(SaladError, match="no piece"):
        fly.get(("absent", 0, 1))


def test_how_frames_are_loaded_runs_no_data_stage_again(setting):
    """Streaming or encoding on the fly gives align nothing to do; a stream is an input of the training alone."""
    run, _, _ = setting

    def inputs(stage, **sequence):
        return stage_inputs(stage, with_sequence(run, **sequence).recipe)

    for change in ({"stream": True}, {"features": "fly"}, {"stream": True, "lanes": 2}):
        assert inputs("align", **change) == inputs("align")
    assert inputs("align", stored="frames") != inputs("align") != inputs("align", layouts=3)
    assert inputs("stage1", features="fly") == inputs("stage1") != inputs("stage1", stream=True)
    assert inputs("stage1", stream=True) != inputs("stage1", stream=True, lanes=2)


@pytest.fixture
def whole(setting, tmp_path):
    """A run whose causal encoder hears each recording once, in blocks; and its encoder."""
    run, utterances, folder = setting
    save_mimi(tmp_path / "mimi")
    run = with_sequence(with_encoder(run, tmp_path / "mimi"), encode="recordings")
    encoder = speech.encoder_of(run)
    encoder.BLOCK_S = 0.32
    yield run, utterances, folder, encoder
    del encoder.BLOCK_S


def test_a_slice_of_a_recording_is_what_a_state_that_is_carried_hears(whole):
    """Sound comes in piece by piece, with the encoder's state carried; no frame of a span has heard what follows it."""
    run, utterances, folder, encoder = whole
    store = encode(run, folder, utterances, "t", layouts=1)
    assert len(store) == len(utterances)
    for u in utterances[::5]:
        samples, rate = read_audio(u.audio)
        state, said, parts = encoder._fresh_state(), resample(samples, rate, encoder.sample_rate_hz), []
        for start in range(0, len(said), 3 * 1920):
            part = encoder._prepare(said[start : start + 3 * 1920])
            with torch.inference_mode():
                parts.append(encoder._latents(torch.from_numpy(part)[None], state)[0])
        carried = torch.cat(parts).numpy()
        for first in range(len(u.words)):
            for end in range(first + 1, len(u.words) + 1):
                times = u.words[first].start_s, u.words[end - 1].end_s
                begin, last = (int(25 * round(seconds * rate)) // (2 * rate) for seconds in times)
                last = max(1, last)  # the first frame ends behind a word that is shorter
                frames = carried[min(begin, last - 1) : last].astype(np.float16)
                assert len(frames) and np.allclose(store.get((u.id, first, end)), frames, atol=2e-3)


@pytest.mark.parametrize("codes", ["", ":codes8"])
def test_recordings_on_the_fly_are_those_of_the_cache(whole, codes, tmp_path):
    run, utterances, folder, _ = whole
    run = with_encoder(run, f"{tmp_path}/mimi{codes}")
    cache = encode(run, folder, utterances, "t", layouts=1)
    fly = encode(with_sequence(run, features="fly"), folder, utterances, "t", layouts=1)
    for layout in (0, 7):  # any
        found = frames_of(run, cache, utterances, layout)
        assert len(found) > len(utterances) and equal(found, frames_of(run, fly, utterances, layout))
    assert (cache.shards[0].kind == "codes") == bool(codes)
    for key in [("u0", 0, 99), ("u0", 3, 3), ("absent", 0, 1)]:
        for store in (cache, fly):
            with pytest.raises(SaladError, match="no piece"):
                store.get(key)


def test_more_layouts_of_whole_recordings_encode_nothing(whole, monkeypatch):
    run, utterances, folder, _ = whole
    encode(run, folder, utterances, "t", layouts=1)
    monkeypatch.setattr("salad.model.encoders.job.encode_pieces", lambda *_, **__: pytest.fail("encoded again"))
    store = encode(with_sequence(run, layouts=9), folder, utterances, "t", layouts=9, whole=True)
    assert frames_of(run, store, utterances, 8)
    assert stage_inputs("align", run.recipe) != stage_inputs("align", with_sequence(run, encode="spans").recipe)


def test_an_encoder_that_is_not_causal_hears_no_whole_recordings(setting):
    run, utterances, folder = setting
    for features in ("cache", "fly"):
        with pytest.raises(SaladError, match="sequence.encode: recordings needs a causal encoder, .*; log-mel hears"):
            encode(with_sequence(run, encode="recordings", features=features), folder, utterances, "t", layouts=1)
