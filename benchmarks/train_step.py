"""Loss and gradients of a distillation step, ours v a straightforward loop: padding, full logits, teacher each step.

Same documents, same weights, same precision. SmolLM2-135M's shape with random weights, an adapter of the demo's size.
Ours packs documents end to end, skips gradients of frozen weights, forms the loss in chunks and keeps the frozen
teacher's states of documents that it has read (`--no-cache` reads them each step).
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from bench import DEVICE, in_turn, line, set_threads
from transformers import LlamaConfig

from salad.engine.precision import DecoderShape, decide, measure
from salad.model import SaladConfig, SaladForConditionalGeneration
from salad.model.freeze import freeze
from salad.model.teacher import Teacher
from salad.sequence import assemble
from salad.training.loop import autocast
from salad.training.tasks import DistillTask
from salad.types import Example, Span


def documents(
    number: int, vocab: int, frame_dim: int, stride: int, seed: int = 0, length: float = 1.0
) -> list[Example]:
    """Interleaved documents whose lengths vary as those of running text do (`length` times packing.py's, in tokens),
    with spoken spans of about 13 tokens and 4 s."""
    rng = np.random.default_rng(seed)
    out = []
    for index in range(number):
        spans, bounds, frames, at = [], [], [], 0
        tokens = min(1500, max(16, int(length * rng.lognormal(5.6, 0.8))))
        while at < tokens:
            for modality, size in (("speech", int(rng.integers(7, 20))), ("text", int(rng.integers(14, 40)))):
                spans.append(Span(modality, at, at + size))
                bounds.append((at, at + size))
                if modality == "speech":
                    frames.append(rng.normal(size=(size * 15, frame_dim)).astype(np.float16))
                at += size
        ids = rng.integers(1, vocab, at)
        out.append(Example(f"d{index}", tuple(spans), ids, tuple(bounds), 0, tuple(frames)))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=3 if DEVICE == "cpu" else 64)
    parser.add_argument("--length", type=float, default=0.5 if DEVICE == "cpu" else 1.0, help="times that of texts")
    parser.add_argument("--train-llm", action="store_true", help="train the LLM too")
    parser.add_argument("--no-cache", action="store_true")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    set_threads()
    torch.manual_seed(0)
    llm = LlamaConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                      num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True)  # fmt: skip
    ears = {"adapter_layers": 2, "adapter_width": 576, "adapter_mlp": 1536, "adapter_heads": 9, "adapter_kv_heads": 3}
    config = SaladConfig(llm_config=llm, frame_dim=384, stride=4, **ears)
    model = SaladForConditionalGeneration(config).to(DEVICE).eval()
    base = SaladForConditionalGeneration(config).to(DEVICE).eval()
    base.load_state_dict(model.state_dict())
    bf16 = decide(
        arguments.precision,
        "train",
        DEVICE,
        lambda: measure(DecoderShape.of(llm.to_dict()), torch.get_num_threads(), trained=arguments.train_llm),
    )
    straightforward = SaladForConditionalGeneration(config).to(DEVICE).eval()
    straightforward.load_state_dict(model.state_dict())
    freeze(straightforward, "full" if arguments.train_llm else "frozen", bf16=bf16)
    freeze(model, "full" if arguments.train_llm else "frozen", bf16=bf16)
    freeze(base, "frozen", bf16=bf16)
    examples = documents(arguments.documents, llm.vocab_size, 384, 4, length=arguments.length)
    teacher = Teacher(base, cache=not arguments.no_cache)
    task = DistillTask(model, teacher, [examples], alpha=1.0, context=2048)
    positions = 0

    def ours() -> float:
        nonlocal positions
        model.zero_grad(set_to_none=True)
        packs = task.packs(0)
        count, total, positions = sum(map(task.count, packs)), 0.0, 0
        for pack in packs:
            with autocast(bf16, DEVICE):
                loss, logs = task.loss(pack)
            (loss / count).backward()
            total += float(loss.detach()) / count
            positions += logs["positions"]
        return total

    def peer() -> float:
        """What one writes first: pad every document, run teacher and student, take the KL of full logits."""
        straightforward.zero_grad(set_to_none=True)
        total, count = 0.0, sum(map(task.count, [examples]))
        with autocast(bf16, DEVICE):
            frames = [torch.from_numpy(f).float().to(DEVICE) for e in examples for f in e.speech_frames]
            speech, lengths = straightforward.speech_embeddings(frames)
            packed = assemble(examples, lengths)
            ids = torch.from_numpy(packed.student_ids).to(DEVICE)
            merged = straightforward.merge(ids, speech, torch.from_numpy(packed.speech_rows).to(DEVICE))
            sizes = np.diff(packed.student_starts).tolist()
            embeds = torch.nn.utils.rnn.pad_sequence(list(merged.split(sizes)), batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones(s, device=DEVICE) for s in sizes], batch_first=True)
            student = straightforward.llm(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits
            own = np.diff(packed.teacher_starts).tolist()
            texts = torch.from_numpy(packed.teacher_ids).to(DEVICE).split(own)
            text_mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(t) for t in texts], batch_first=True)
            with torch.no_grad():
                text = torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True)
                taught = base.llm(input_ids=text, attention_mask=text_mask, use_cache=False).logits
            student = student[mask.bool()][torch.from_numpy(packed.pairs.student_pos).to(DEVICE)]
            taught = taught[text_mask.bool()][torch.from_numpy(packed.pairs.teacher_pos).to(DEVICE)]
            loss = torch.nn.functional.kl_div(
                student.float().log_softmax(-1), taught.float().log_softmax(-1), reduction="sum", log_target=True
            )
        (loss / count).backward()
        total += float(loss.detach()) / count
        return total

    losses = ours(), peer()
    times = in_turn({"ours": ours, "peer": peer}, arguments.rounds, warm=True)
    line(
        "train_step",
        times["ours"],
        "padded, full logits",
        times["peer"],
        None,
        abs(losses[0] / losses[1] - 1) < 0.05,
        positions=int(positions),
        positions_per_s=round(positions / times["ours"]),
        precision="bf16" if bf16 else "fp32",
        llm="trained" if arguments.train_llm else "frozen",
        teacher="cached" if not arguments.no_cache else "each step",
        losses=[round(x, 5) for x in losses],
    )


if __name__ == "__main__":
    main()
