"""Embed -> balanced clusters -> probe -> explain -> allocate -> draw."""
