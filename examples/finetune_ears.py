"""Go on training ears on your recordings, with LoRA: python finetune_ears.py MODEL CORPUS OUT [STEPS]. Prints M twice.

CORPUS: utterances with word times. The model hears the first half of each, and learns to write the second.
"""

import sys
from pathlib import Path

from peft import LoraConfig, get_peft_model
from torch.nn import Linear
from transformers import Trainer, TrainingArguments

import salad
from salad.audio import read_audio, to_samples
from salad.evaluation.saved_model import read_corpus

name, corpus, out, steps = (*sys.argv[1:4], int(sys.argv[4]) if len(sys.argv) > 4 else 100)
ears = salad.load(name)
before = salad.divergence(ears, corpus, f"{out}/before", workers=1)


def halves(utterance):
    words, half = utterance.text.split(), len(utterance.words) // 2
    samples, rate_hz = read_audio(utterance.audio, ears.sample_rate_hz)
    said = samples[: to_samples(utterance.words[half - 1].end_s, rate_hz)]
    return {"text": f"<|audio|> {' '.join(words[half:])}", "audio": said}


def collate(rows):
    batch = ears.processor([row["text"] for row in rows], [row["audio"] for row in rows])
    asked = batch["attention_mask"].bool() & (batch["input_ids"] != ears.processor.audio_token_id)
    return {**batch, "labels": batch["input_ids"].where(asked, -100)}


layers = [n for n, m in ears.model.named_modules() if n.startswith("adapter.") and isinstance(m, Linear)]
student = get_peft_model(ears.model, LoraConfig(r=8, target_modules=layers))
settings = {"max_steps": steps, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1}
arguments = TrainingArguments(
    f"{out}/trainer", remove_unused_columns=False, report_to=[], save_strategy="no", **settings
)
data = [halves(u) for u in read_corpus(Path(corpus)).utterances if len(u.words) > 1]
Trainer(student, arguments, train_dataset=data, data_collator=collate).train()
student.merge_and_unload()
after = salad.divergence(ears.save(f"{out}/model"), corpus, f"{out}/after", workers=1)
print(
    f"M before {before.misalignment:.4f}, after {after.misalignment:.4f} nats per token; the model lies in {out}/model"
)
