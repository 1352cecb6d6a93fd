"""Go on training ears on your recordings with LoRA; prints M twice: python finetune_ears.py MODEL CORPUS OUT [STEPS]"""

import sys
from pathlib import Path

from peft import LoraConfig, get_peft_model
from torch.nn import Linear
from transformers import Trainer, TrainingArguments

import salad
from salad.audio import read_audio
from salad.evaluation.saved_model import read_corpus

name, corpus, out, steps = [*sys.argv[1:], "100"][:4]
ears = salad.load(name)
before = salad.divergence(ears, corpus, f"{out}/before", workers=1)


def collate(utterances):
    """The model hears the first half of each utterance, and learns to write the second."""
    texts, sounds = [], []
    for u in utterances:
        half = len(u.words) // 2
        samples, rate_hz = read_audio(u.audio, ears.sample_rate_hz)
        texts.append(f"<|audio|> {' '.join(u.text.split()[half:])}")
        sounds.append(samples[: int(u.words[half - 1].end_s * rate_hz)])
    batch = ears.processor(texts, sounds)
    return {**batch, "labels": batch["input_ids"]}  # what is heard and what pads a row are not asked for


layers = [n for n, m in ears.model.named_modules() if n.startswith("adapter.") and isinstance(m, Linear)]
student = get_peft_model(ears.model, LoraConfig(r=8, target_modules=layers))
plan = TrainingArguments(out, max_steps=int(steps), learning_rate=1e-3, save_strategy="no", remove_unused_columns=False)
data = [u for u in read_corpus(Path(corpus)).utterances if len(u.words) > 1]
Trainer(student, plan, train_dataset=data, data_collator=collate).train()
student.merge_and_unload()
after = salad.divergence(ears.save(f"{out}/model"), corpus, f"{out}/after", workers=1)
print(f"M before {before.misalignment:.4f}, after {after.misalignment:.4f} nats per token; the model: {out}/model")
