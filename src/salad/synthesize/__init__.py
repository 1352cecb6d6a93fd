"""Text to speech: voices, and the job that speaks whole documents."""

from salad.synthesize.voices import assets_of_voice, load_voice

__all__ = ["assets_of_voice", "load_voice"]
