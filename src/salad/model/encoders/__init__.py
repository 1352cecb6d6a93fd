"""Frozen speech encoders: waveform -> frames."""
