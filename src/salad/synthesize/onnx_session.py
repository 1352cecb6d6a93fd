"""ONNX sessions as voices need them: on one thread each."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def one_thread_session(model: Path | bytes) -> Any:
    """A session of a model's file, or of its bytes: workers are processes, and their thread pools would fight over the
    cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")  # a session sets the flag of its thread
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
