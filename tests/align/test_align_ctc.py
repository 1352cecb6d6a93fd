"""The CTC path equals brute force and stays small; letters are tied to words; a checkpoint's folder is all it takes."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salad.align import ctc, viterbi
from salad.align.ctc import CtcAligner
from salad.align.viterbi import ctc_path, num_repeats
from salad.types import SaladError

LETTERS = "<pad> <s> </s> <unk> | E T A O N I H S R D L U M W C F G Y P B V K ' X J Q Z".split()


def best_by_brute_force(scores: np.ndarray, targets: list[int]) -> float:
    """Highest score over all labellings that read `targets`."""
    best = -np.inf
    for labels in itertools.product(range(scores.shape[1]), repeat=len(scores)):
        if [label for label, _ in itertools.groupby(labels) if label] == targets:
            best = max(best, float(scores[range(len(scores)), labels].sum()))
    return best


@given(data=st.data(), num_classes=st.integers(2, 3), num_frames=st.integers(1, 7), seed=st.integers(0, 999))
def test_path_is_the_best_of_all(data: st.DataObject, num_classes: int, num_frames: int, seed: int) -> None:
    targets = data.draw(st.lists(st.integers(1, num_classes - 1), min_size=1, max_size=num_frames))
    generator = np.random.default_rng(seed)
    scores = np.log(generator.dirichlet(np.full(num_classes, 0.5), num_frames) + 1e-9).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:  # blocks of a few frames, so that paths cross them
        patch.setattr(viterbi, "BLOCK", data.draw(st.integers(1, 8)))
        patch.setattr(viterbi, "WHOLE_CELLS", data.draw(st.integers(0, 40)))
        patch.setattr(viterbi, "ROW_CELLS", data.draw(st.integers(1, 40)))
        best = best_by_brute_force(scores, targets)
        if num_frames < len(targets) + num_repeats(np.array(targets)):
            assert best == -np.inf
            with pytest.raises(SaladError, match="frames cannot hold"):
                ctc_path(scores, np.array(targets))
            return
        path = ctc_path(scores, np.array(targets))
    assert [n for n, _ in itertools.groupby(path.tolist()) if n >= 0] == list(range(len(targets)))
    labels = [targets[n] if n >= 0 else 0 for n in path]
    assert [label for label, _ in itertools.groupby(labels) if label] == targets
    assert scores[range(num_frames), labels].sum() == pytest.approx(best, abs=1e-4)


def test_more_than_255_states_and_doubled_letters() -> None:
    """Back-pointers in a byte would wrap; ours are comparisons. Every letter is a doubled one."""
    num_targets = 400
    scores = np.full((2 * num_targets + 1, 2), -5.0, np.float32)
    scores[::2, 0] = scores[1::2, 1] = -0.1
    path = ctc_path(scores, np.ones(num_targets, dtype=np.int64))
    assert (path[1 : 2 * num_targets : 2] == np.arange(num_targets)).all()


def test_an_hour_of_letters_takes_little_memory() -> None:
    generator = np.random.default_rng(0)
    targets = generator.integers(1, 30, 3000)
    truth = np.repeat(np.arange(3000), 4)  # 12,000 frames; all their scores would take 290 MB
    scores = np.full((len(truth), 30), -8.0, np.float32)
    scores[np.arange(len(truth)), targets[truth]] = -0.01
    scores[3::4] = -8.0
    scores[3::4, 0] = -0.01  # a blank after each letter
    tracemalloc.start()
    path = ctc_path(scores, targets)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (path[0::4] == np.arange(3000)).all()
    assert peak < 25e6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Wav2Vec2ForCTC of random weights, saved as the real ones are."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder = tmp_path_factory.mktemp("ctc")
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(LETTERS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, pad_token_id=0,
        feat_extract_norm="layer", do_stable_layer_norm=True,
    )  # fmt: skip
    Wav2Vec2ForCTC(config).eval().save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({letter: n for n, letter in enumerate(LETTERS)}))
    return folder


def test_letters_are_tied_to_words_in_the_vocabularys_case(checkpoint: Path) -> None:
    aligner = CtcAligner(checkpoint)
    targets, owners, ids = aligner.targets(["It's", "—", "twenty-1", "Ñmega"])
    shown = "".join("*" if ids[t] == -1 else LETTERS[ids[t]] for t in targets)
    assert shown == "IT'S|TWENTY|ONE|*MEGA"
    assert owners[shown.index("T", 5)] == 2 and owners[shown.index("O", 5)] == 2 and owners[-1] == 3
    assert 1 not in owners and owners[shown.index("|")] == -1


def test_chunks_are_the_whole(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aligner = CtcAligner(checkpoint)
    samples = np.random.default_rng(0).normal(0, 0.1, 50_000).astype(np.float32)
    ids = [0, 5, 6, -1]
    whole = aligner.emissions(samples, ids)
    heard = torch.from_numpy((samples - samples.mean()) / samples.std())[None]
    with torch.inference_mode():
        expected = aligner._model(heard).logits[0].log_softmax(-1)
    np.testing.assert_allclose(whole[:, :3], expected[:, [0, 5, 6]].numpy(), atol=1e-4)
    np.testing.assert_allclose(whole[:, 3], expected.amax(-1).numpy(), atol=1e-4)
    monkeypatch.setattr(ctc, "CHUNK_S", 1.0)
    monkeypatch.setattr(ctc, "CONTEXT_S", 1.0)
    chunked = aligner.emissions(samples, ids)
    assert chunked.shape == whole.shape and np.isfinite(chunked).all()
    shapes: list[tuple[int, ...]] = []
    hook = aligner._model.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    long = np.tile(samples, 3)
    alone = aligner.emissions(long, ids)
    monkeypatch.setitem(ctc.BATCH_S, "cpu", 4.0)  # as on a GPU: chunks of equal length go together
    np.testing.assert_allclose(aligner.emissions(long, ids), alone, atol=1e-4)
    assert max(shape[0] for shape in shapes) == 4 and shapes[0][0] == 1
    hook.remove()
    monkeypatch.setattr(ctc, "CONTEXT_S", 10.0)
    np.testing.assert_allclose(aligner.emissions(samples, ids), whole, atol=1e-4)


@pytest.mark.gpu
def test_a_worker_with_a_gpu_hears_what_the_cpu_hears(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 1_500_000).astype(np.float32)  # five chunks
    cpu = CtcAligner(checkpoint).emissions(samples, [0, 5, 6, -1])
    monkeypatch.setenv("SALAD_DEVICE", "cuda")
    gpu = CtcAligner(checkpoint)
    assert gpu._device.type == "cuda"
    np.testing.assert_allclose(gpu.emissions(samples, [0, 5, 6, -1]), cpu, atol=1e-3)


def test_words_are_found_where_their_letters_are(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emissions as a trained model gives them; all else is the aligner's own."""
    aligner = CtcAligner(checkpoint)
    words = ["Hello,", "—", "it's", "42"]
    targets, owners, ids = aligner.targets(words)
    scores = np.full((300, len(ids)), -9.0, np.float32)
    scores[:, 0] = -0.02
    first = {word: 20 + 70 * n for n, word in enumerate((0, 2, 3))}
    spoken = [0.0] * len(targets)
    at = 20
    for n, (target, owner) in enumerate(zip(targets, owners, strict=True)):
        if owner >= 0 and (n == 0 or owners[n - 1] != owner) and owner in first:
            at = max(at, first.pop(int(owner)))
        scores[at, 0], scores[at, target] = -9.0, -0.02
        spoken[n] = at
        at += 2
    monkeypatch.setattr(aligner, "emissions", lambda samples, ids: scores)
    samples = np.random.default_rng(0).normal(0, 0.1, 320 * 300 + 80).astype(np.float32)
    aligned, score = aligner.align(samples, words, None)
    assert [word.text for word in aligned] == words
    for n, start in ((0, 20), (2, 90), (3, 160)):
        assert aligned[n].start_s == pytest.approx(start * 0.02, abs=0.021)  # "—" takes 20 ms
    assert score > 0.95 and aligned[0].score > 0.95 and np.isnan(aligned[1].score)
    assert all(word.end_s > word.start_s for word in aligned)
    sentences = [(0, 1, 0.3, 1.5), (1, 4, 1.7, 5.0)]
    timed, _ = aligner.align(samples, words, sentences)
    assert timed[0].end_s <= 1.5 and timed[1].start_s >= 1.7


def test_long_recordings_are_placed_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["word,"] * 300
    starts = np.arange(301) * 0.5
    silences = np.stack([starts[1:] - 0.2, starts[1:]], axis=1)
    whole = ctc._place(words, starts, silences, 0.0, 150.0)
    monkeypatch.setattr(ctc, "GROUP_WORDS", 20)
    grouped = ctc._place(words, starts, silences, 0.0, 150.0)
    np.testing.assert_allclose([w.start_s for w in grouped], [w.start_s for w in whole], atol=1e-9)
    np.testing.assert_allclose([w.end_s for w in grouped], [w.end_s for w in whole], atol=1e-9)


def test_a_folder_that_is_no_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SaladError, match="vocab.json cannot be read"):
        CtcAligner(tmp_path)
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "a": 1}')
    with pytest.raises(SaladError, match="no CTC checkpoint"):
        CtcAligner(tmp_path)
    (tmp_path / "vocab.json").write_text('{"deu": {"a": 1}, "fra": {"a": 1}}')
    with pytest.raises(SaladError, match="deu, fra ..., not 'eng'"):
        CtcAligner(tmp_path)
    samples = np.zeros(1600, dtype=np.float32)
    with pytest.raises(SaladError, match="frames cannot hold"):
        CtcAligner(checkpoint).align(samples, ["far", "too", "many", "letters"], None)
    with pytest.raises(SaladError, match="characters"):
        CtcAligner(checkpoint).align(samples, ["—"], None)
