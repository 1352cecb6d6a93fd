"""The probe where the LLM has learnt: M(c) is KL of Q on the text, not of P, to P on the speech (decision 0007)."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from salad.config import load_recipe
from salad.data.manifest import write_utterances
from salad.files import write_jsonl
from salad.measure.divergence import speech_ears
from salad.pipeline import prober
from salad.pipeline.probe_rows import PARTS
from salad.pipeline.run import Run
from salad.pipeline.speech_jobs import encode
from salad.pipeline.speechlm import build_model, speech_examples
from salad.pipeline.stages import stage1
from salad.pipeline.stages.align import pieces_of
from salad.select.explain import explain
from salad.sequence import assemble
from salad.testing.corpora import WORDS, make_utterances
from salad.training.checkpoint import latest_checkpoint
from salad.types import Document


@pytest.fixture(params=["full", "lora"])
def run(request, recipe_values, write_recipe, tmp_path, tokenizer):
    """A run after Stage I, in which the LLM itself has learnt, so that P and Q differ on text."""
    llm = tmp_path / "llm"
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.3, bos_token_id=0, eos_token_id=0,
        pad_token_id=None,
    )  # fmt: skip
    tokenizer.bos_token = tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(llm)
    tokenizer.save_pretrained(llm)
    model = {"adapter_layers": 1, "adapter_width": 16, "adapter_mlp": 24, "adapter_heads": 2, "adapter_kv_heads": 1}
    values = recipe_values | {
        "assets": {"encoder": "log-mel", "llm": str(llm)},
        "engine": {"workers": 1, "shard_items": 4},
        "sequence": {"text_words": [1, 3], "speech_words": [2, 4], "layouts": 1},
        "model": model | {"stride": 8},
        "stage1": {"steps": 6, "positions": 200, "warmup_steps": 0, "alpha": 0.0, "llm": request.param, "lr_llm": 2e-2,
                   "checkpoint_every": 6, "probe_every": 6},
        "stage2": {"steps": 2, "llm": request.param},
        "precision": "fp32",
        "threads": 1,
    }  # fmt: skip
    run = Run(load_recipe(write_recipe(values)))
    utterances = [replace(u, document_id=u.id) for u in make_utterances(tmp_path, 12)]
    for group, own in (("speech", utterances[:8]), ("heldout", utterances[8:])):
        write_utterances(run.folder("align") / f"{group}.jsonl", own)
        encode(run, run.folder("align") / f"frames-{group}", own, "t", **pieces_of(run, group))
    rows = [{"id": f"t{i}", "text": " ".join(WORDS[i:]), "source": "s", "domain": "d"} for i in range(9)]
    write_jsonl(run.folder("corpus") / "web.jsonl", rows)
    stage1.run(run)
    return run, utterances


def by_hand(model, reference, examples):
    """KL(reference on the text || model on the interleaved document) at every text token, from whole logits."""
    found = []
    with torch.no_grad():
        for example in examples:
            ids = torch.tensor([[example.start_id, *example.token_ids]])
            teacher = reference.llm(ids).logits[0].log_softmax(-1)
            speech, lengths = speech_ears(model)([example])
            packed = assemble([example], lengths)
            read, rows = (torch.from_numpy(x) for x in (packed.student_ids, packed.speech_rows))
            embeddings = model.merge(read, speech, rows)
            student = model.llm(inputs_embeds=embeddings[None]).logits[0].log_softmax(-1)
            q, p = teacher[packed.pairs.teacher_pos], student[packed.pairs.student_pos]
            found.append((q.exp() * (q - p)).sum(-1).numpy())
    return found


def test_the_probe_holds_p_on_speech_against_q_on_text(run, monkeypatch, tokenizer):
    run, utterances = run
    asked = utterances[:4]
    monkeypatch.setattr(prober, "transcribe", lambda run, folder, own, title: {u.id: u.text for u in own})
    cluster_of = {u.id: n % 2 for n, u in enumerate(asked)}
    measured = prober.Prober(run).measure_aligned(run.folder("probe"), asked, cluster_of, "t")
    adapted = build_model(run, latest_checkpoint(run.folder("stage1")), lora=run.recipe.stage1.llm == "lora")
    frames = encode(run, run.folder("probe") / "frames", asked, "t", layouts=1)
    examples = speech_examples(run, tokenizer, asked, frames)
    right, wrong = by_hand(adapted, build_model(run), examples), by_hand(adapted, adapted, examples)
    evidence = [row[1] for row in measured]
    for own, q, p in zip(evidence, right, wrong, strict=True):
        assert np.allclose(own.heard, q, atol=2e-4) and np.abs(own.heard - p).max() > 0.01  # P has learnt: it is not Q
    parts = {part.cluster: part for part in explain(evidence)[0]}
    for cluster in (0, 1):
        tokens = np.concatenate([q for own, q in zip(evidence, right, strict=True) if own.cluster == cluster])
        assert parts[cluster].misalignment == pytest.approx(tokens.mean(), abs=2e-4)
        whole = parts[cluster].voice + parts[cluster].difficulty + parts[cluster].domain
        assert whole == pytest.approx(parts[cluster].misalignment)


def test_a_probe_that_was_killed_measures_no_look_twice(run, monkeypatch):
    run, utterances = run
    monkeypatch.setattr(prober, "transcribe", lambda run, folder, own, title: {u.id: u.text[:-1] for u in own})
    monkeypatch.setattr(prober, "speak", lambda *_: None)
    monkeypatch.setattr(prober, "align", lambda *_: own)
    own, documents = utterances[:3], [(Document(u.id, u.text, "s"), n) for n, u in enumerate(utterances[:3])]
    look = run.folder("probe") / "look-00"
    look.mkdir(parents=True)
    first = prober.Prober(run).measure(look, documents)
    monkeypatch.setattr(prober, "token_divergence", None)
    again = prober.Prober(run).measure(look, documents)
    for (u, e, *figures), (v, f, *kept) in zip(first, again, strict=True):
        assert u == v and e.cluster == f.cluster and figures == kept
        assert all(np.array_equal(getattr(e, part), getattr(f, part)) for part in PARTS)
    own = utterances[1:3]
    with pytest.raises(TypeError):  # of other recordings: measured anew
        prober.Prober(run).measure(look, documents)


def test_the_probe_measures_where_the_evaluation_does(run, monkeypatch):
    run, asked = run[0], []
    monkeypatch.setattr(prober, "default_device", lambda: "cuda")
    monkeypatch.setattr(prober, "model_and_base", lambda run, checkpoint, device: asked.append(device))
    monkeypatch.setattr(prober, "autocast", lambda bf16, device: asked.append((bf16, device)) or nullcontext())
    run = replace(run, recipe=run.recipe.model_copy(update={"precision": "auto"}))
    one = prober.Prober(run)
    one.load()
    with one.reading():
        assert asked == ["cuda", (True, "cuda")] and not torch.is_grad_enabled()


def test_a_transcript_without_an_error_costs_q_nothing_and_the_stakes_are_qs_own(run, monkeypatch):
    """v and s are of Q alone: what P has learnt changes neither."""
    run, utterances = run
    monkeypatch.setattr(prober, "transcribe", lambda run, folder, own, title: {u.id: u.text for u in own})
    measured = prober.Prober(run).measure_aligned(
        run.folder("probe"), utterances[:3], {f"u{n}": 0 for n in range(3)}, "t"
    )
    for _, own, *_ in measured:
        assert np.abs(own.transcript).max() < 1e-4 and own.stakes.mean() > 1e-3 and own.heard.mean() > 1e-3
