"""The SpeechLM on small random weights: packing, divergences, saving, generating (invariants 2, 3 and 4)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from salad.measure.divergence import deaf_ears, divergence, forgetting, speech_ears, summary, transcript_ears
from salad.model import SaladForConditionalGeneration, teacher
from salad.model.adapter import CTCHead
from salad.model.splice import splice
from salad.model.teacher import Teacher
from salad.sequence import assemble
from salad.testing.models import DIM, VOCABULARY, make_example, make_examples, make_model
from salad.training.loop import autocast
from salad.training.tasks import DistillTask
from salad.types import Example, SaladError, Span


def loss_of(model, pack, alpha=0.6):
    task = DistillTask(model, Teacher(model, cache=False), [pack], alpha=alpha, context=2048)
    task.llm_frozen = False
    return task.loss(pack)


@pytest.mark.parametrize(("rate", "ctc"), [("fixed", 0), ("fixed", 30), ("text", 30)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_packed_equals_one_by_one(rate, ctc, seed):
    model, pack = make_model(rate, ctc), make_examples(seed)
    total, logs = loss_of(model, pack)
    total.backward()
    packed = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    alone = 0.0
    for example in pack:
        one, _ = loss_of(model, [example])
        one.backward()
        alone += one.detach()
    assert torch.allclose(total.detach(), alone, rtol=1e-5, atol=1e-5)
    assert logs["targets"] == DistillTask(model, Teacher(model, cache=False), [pack], alpha=1, context=2048).count(pack)
    assert packed
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            error = (packed[name] - parameter.grad).norm() / parameter.grad.norm().clamp(min=1e-6)
            assert error < 1e-5, name


@pytest.mark.parametrize("seed", range(4))
def test_no_document_sees_another(seed):
    """Perturb one document of a pack: nobody else's hidden states move at all."""
    model, pack = make_model(), make_examples(seed)
    rng = np.random.default_rng(99)
    at = seed % len(pack)
    other = make_example(rng, pack[at].spans, "y")
    other = Example(
        **{
            **vars(other),
            "speech_frames": tuple(rng.normal(size=f.shape).astype(np.float16) for f in pack[at].speech_frames),
        }
    )

    def states(examples):
        speech, lengths = model.speech_embeddings(
            [torch.from_numpy(f).float() for e in examples for f in e.speech_frames]
        )
        packed = assemble(examples, lengths)
        merged = model.merge(torch.from_numpy(packed.student_ids), speech, torch.from_numpy(packed.speech_rows))
        return model.hidden_states(merged, packed.student_starts), packed.student_starts

    with torch.no_grad():
        before, starts = states(pack)
        after, _ = states([*pack[:at], other, *pack[at + 1 :]])
    own = torch.zeros(len(before), dtype=torch.bool)
    own[starts[at] : starts[at + 1]] = True
    assert torch.equal(before[~own], after[~own])
    assert not torch.allclose(before[own], after[own])


def test_hidden_states_are_causal():
    model = make_model()
    x = torch.randn(12, 24)
    with torch.no_grad():
        before = model.hidden_states(x, [0, 12])
        x[8:] += 1.0
        after = model.hidden_states(x, [0, 12])
    assert torch.equal(before[:8], after[:8])


def test_packed_forward_equals_the_plain_llm():
    model = make_model()
    ids = torch.randint(0, VOCABULARY, (1, 9))
    with torch.no_grad():
        plain = model.llm(ids).logits
        ours = model(ids).logits
    assert torch.allclose(plain, ours, atol=1e-5)


def test_divergences_of_an_untouched_model_are_zero():
    model = make_model()
    examples = make_examples(0)
    texts = [
        Example(e.id, (Span("text", 0, len(e.token_ids)),), e.token_ids, ((0, len(e.token_ids)),), 0) for e in examples
    ]
    teacher = Teacher(model, cache=True)
    assert summary(forgetting(model, teacher, texts)).all == 0.0  # F of an untouched model
    assert summary(divergence(model, teacher, texts, speech_ears_or_none(model))).all == 0.0  # M on text alone
    truth = transcript_ears(model, lambda e: [ids.tolist() for ids in e.speech_tokens])
    assert summary(divergence(model, teacher, examples, truth)).all < 1e-6  # a perfect transcript tells all
    assert summary(divergence(model, teacher, examples, deaf_ears(model))).all > 0.01
    assert summary(divergence(model, teacher, examples, speech_ears(model))).all > 0.01


def speech_ears_or_none(model):
    return deaf_ears(model)  # there is nothing to hear in plain text


def test_teacher_cache_changes_nothing():
    model, examples = make_model(), make_examples(3)
    cached, fresh = Teacher(model, cache=True), Teacher(model, cache=False)
    cached.hidden(examples[:2])
    assert torch.allclose(cached.hidden(examples), fresh.hidden(examples), atol=1e-5)


def test_frozen_llm_skips_plain_text_exactly():
    """With a frozen LLM, plain text has zero loss and zero gradient, so leaving it out is exact."""
    model = make_model()
    for parameter in model.llm.parameters():
        parameter.requires_grad_(False)
    example = make_examples(1)[0]
    text = Example("t", (Span("text", 0, 5),), np.arange(1, 6), ((0, 5),), 0)
    task = DistillTask(model, Teacher(model, cache=False), [[example, text]], alpha=1.0, context=2048)
    both, _ = task.loss([example, text])
    alone, _ = task.loss([example])
    assert torch.equal(both, alone)
    assert task.loss([text]) == (None, {})
    task.llm_frozen = False
    computed, _ = task.loss([example, text])
    assert torch.allclose(computed, alone, atol=1e-4)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=5))
@settings(max_examples=100)
def test_ctc_collapse_is_per_span(spans):
    best = torch.tensor([c for span in spans for c in span])
    keep, counts = CTCHead.positions_to_keep(best, [len(s) for s in spans])
    at = 0
    for span, count in zip(spans, counts, strict=True):
        kept = [c for c, k in zip(span, keep[at : at + len(span)].tolist(), strict=True) if k]
        collapsed = [c for i, c in enumerate(span) if c and (i == 0 or span[i - 1] != c)]
        assert kept == (collapsed or [span[-1]]) and count == len(kept) >= 1
        at += len(span)


@pytest.mark.parametrize("rate", ["fixed", "text"])
def test_the_likeliest_token_is_told_for_each_position_that_the_llm_reads(rate):
    model = make_model(rate, 30)
    model.ctc.token_ids.copy_(torch.arange(40, 10, -1))
    frames = [torch.randn(n, DIM, generator=torch.Generator().manual_seed(n)) for n in (9, 5)]
    heard = model.hear(frames)
    best = heard.ctc_logits.argmax(-1)
    if rate == "text":
        best = best[model.ctc.positions_to_keep(best, heard.all_lengths)[0]]
    assert len(heard.token_ids) == sum(heard.lengths) == len(heard.embeddings) and heard.symbols is None
    assert heard.token_ids.tolist() == [-1 if c == 0 else 41 - c for c in best.tolist()]
    assert make_model("fixed", 0).hear(frames).token_ids is None


@pytest.mark.parametrize(("rate", "ctc", "lora"), [("fixed", 0, 0), ("text", 30, 0), ("fixed", 0, 2)])
def test_save_and_load_round_trip(tmp_path, rate, ctc, lora):
    model = make_model(rate, ctc, lora)
    frames = [torch.randn(7, DIM), torch.randn(10, DIM)]
    audio = model.config.audio_token_id
    ids = torch.tensor([[0, 5, audio, 7], [0, audio, 9, 9]])
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin")) and list(tmp_path.glob("*.safetensors"))
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert isinstance(again, SaladForConditionalGeneration)
    with torch.no_grad():
        assert torch.equal(model(ids, frames=frames).logits, again(ids, frames=frames).logits)
    assert again.config.to_dict()["rate"] == rate


@pytest.mark.parametrize("rate", ["fixed", "text"])
def test_generate_in_a_batch_equals_alone(rate):
    model = make_model(rate, 30)
    audio = model.config.audio_token_id
    frames = [torch.randn(5, DIM), torch.randn(14, DIM), torch.randn(8, DIM)]
    ids = torch.tensor([[0, 0, 5, audio], [0, audio, 9, audio]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    both = model.generate(ids, attention_mask=mask, frames=frames, **options)
    first = model.generate(ids[:1, 1:], frames=frames[:1], **options)
    second = model.generate(ids[1:], frames=frames[1:], **options)
    assert both.shape == (2, 4 + 8) and torch.equal(both[:, :4], ids)
    assert torch.equal(both[:, -8:], torch.cat([first[:, -8:], second[:, -8:]]))


def test_spliced_parts_stand_in_order_in_the_tables_precision():
    table = make_model().get_input_embeddings()
    speech = torch.randn(3, table.weight.shape[1], dtype=torch.float64)
    got = splice(table, [[1, 2], speech, [], torch.tensor([4]), speech[:1]])
    assert torch.equal(got, torch.cat([table.weight[[1, 2]], speech.float(), table.weight[[4]], speech[:1].float()]))
    assert (
        splice(table, []).shape == (0, table.weight.shape[1]) and splice(table, [[]]).shape == splice(table, []).shape
    )


def test_placeholders_and_spans_must_agree():
    model = make_model()
    with pytest.raises(SaladError, match="2 spans of 4 positions for 1 audio placeholders"):
        model(torch.tensor([[0, model.config.audio_token_id]]), frames=[torch.randn(4, DIM)] * 2)


def test_lora_starts_as_the_identity():
    plain, lora = make_model(), make_model(lora=2)
    ids = torch.randint(0, VOCABULARY, (1, 6))
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, lora(ids).logits, atol=1e-6)
    assert any("lora_" in name for name, _ in lora.named_parameters())


def test_a_measurement_sees_weights_that_were_loaded_after_the_last_one():
    """autocast keeps casts of weights; a checkpoint loaded under it would be measured with the old ones."""
    model, examples = make_model(), make_examples(2)
    teacher = Teacher(model, cache=True)
    with torch.no_grad(), autocast(True):
        first = divergence(model, teacher, examples, speech_ears(model))
        for parameter in model.adapter.parameters():
            parameter.copy_(torch.randn_like(parameter))
        second = divergence(model, teacher, examples, speech_ears(model))
    with torch.no_grad(), autocast(True):
        fresh = divergence(model, teacher, examples, speech_ears(model))
    assert [r.kl for r in second] == [r.kl for r in fresh] != [r.kl for r in first]


@pytest.mark.parametrize("head", [0, 5])
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("prefixes", [None, [(0, 0), (0, 7), (0, 0)]])
def test_block_mask_equals_one_kernel_a_document(prefixes, head, window):
    """What a GPU runs gives what a CPU runs; forward only, for FlexAttention has no backward on a CPU."""
    from salad.model.attention import blockwise, packed_arguments, packed_attention

    g = torch.Generator().manual_seed(0)
    starts = [0, 7, 12, 31]
    query = torch.randn(1, 4, 31, 16, generator=g)
    key, value = (torch.randn(1, 2, 31, 16, generator=g) for _ in range(2))
    kept = [tuple(torch.randn(1, 2, head, 16, generator=g) for _ in range(2))] if head else None
    packing = packed_arguments(starts, torch.device("cpu"), prefixes, kept)["packing"]
    layer = torch.nn.Identity()
    layer.layer_idx = 0
    with torch.no_grad():
        one, _ = packed_attention(layer, query, key, value, None, scaling=0.25, packing=packing, sliding_window=window)
        if kept:
            key, value = (torch.cat(pair, dim=2) for pair in zip(kept[0], (key, value), strict=True))
        other = blockwise(query, key, value, packing.block(window), 0.25)
    assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.gpu
def test_a_step_on_a_gpu_equals_a_cpu_s():
    grads, losses = [], []
    for device in ("cpu", "cuda"):
        model = make_model("fixed").to(device)
        examples = make_examples(3, num=4)
        task = DistillTask(
            model, Teacher(make_model("fixed", seed=1).to(device), cache=True), [examples], alpha=0.5, context=2048
        )
        loss, _ = task.loss(task.packs(0)[0])
        loss.backward()
        losses.append(float(loss))
        grads.append(torch.cat([p.grad.flatten().cpu() for p in model.adapter.parameters()]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert float((grads[0] - grads[1]).norm() / grads[0].norm()) < 1e-2


@pytest.mark.gpu
def test_agrees_with_liger_on_a_gpu():
    liger = pytest.importorskip("liger_kernel.chunked_loss")
    g = torch.Generator(device="cuda").manual_seed(0)
    student, teacher = (torch.randn(64, 32, device="cuda", generator=g) for _ in range(2))
    head = torch.randn(500, 32, device="cuda", generator=g)
    targets = torch.randint(0, 500, (64,), device="cuda", generator=g)
    from salad.objective.distill import distill

    ours = distill(student, teacher, head, head, targets).kl / 64
    theirs = liger.LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0)(
        student, head, teacher, head, targets
    )
    assert float(ours) == pytest.approx(float(theirs), rel=1e-3)


def test_a_teacher_keeps_the_newest_states_up_to_its_bound(monkeypatch):
    model, examples = make_model(), make_examples(8, num=6)
    whole = Teacher(model, cache=True, alone=True)
    wanted = whole.hidden(examples)
    monkeypatch.setattr(teacher, "CACHE_BYTES", wanted.nbytes // 3)
    few = Teacher(model, cache=True, alone=True)
    for _ in range(2):
        assert torch.equal(few.hidden(examples), wanted)
    assert few.positions_read > whole.positions_read
    few.hidden(examples[:1])
    read = few.positions_read
    few.hidden(examples[:1])
    assert few.positions_read == read  # the newest is still there
