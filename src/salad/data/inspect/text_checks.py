"""What is odd about a transcript: each oddity by name, with the piece of text that shows it."""

from __future__ import annotations

import re
import unicodedata

TEXT_CHECKS = {
    "text_empty": ("no text", "write what is said, or leave the recording out"),
    "no_letters": ("text without letters", "write the words as they are spoken"),
    "other_script": ("letters of another script than Latin", "the tokenizer, aligner and voices here are English"),
    "urls": ("addresses (URL, e-mail)", "write them as they are spoken, or leave them out"),
    "markup": ("markup or tags", "strip tags, entities and bracketed notes: the aligner takes them for words"),
    "unusual_characters": ("unusual characters", "control marks, emoji, broken encoding: re-export as UTF-8 text"),
    "all_caps": ("all capitals", "restore the casing: an LLM reads capitals as other tokens"),
    "digits": ("digits", "fine if the aligner copes; spelled out, each word has its sound"),
    "repeated_words": ("words repeated in a row", "often a recogniser's loop: check against the recording"),
}

URL = re.compile(r"https?://\S+|\bwww\.\S+|\b[\w.+-]+@[\w-]+\.[a-z]{2,}\b", re.IGNORECASE)
MARKUP = re.compile(
    r"</?[A-Za-z][^<>]{0,80}>|&(?:[a-z]{2,8}|#\d{1,6});|\[[^\[\]]{1,60}\]|\{[^{}]{0,60}\}|\*\*|__\w|`|^#{1,6}\s|\(\(|<\|",
    re.MULTILINE,
)
DIGITS = re.compile(r"\S*\d\S*")
MOJIBAKE = re.compile("Ã[\u0080-\u00bf]|â€|\ufffd")  # UTF-8 read as Latin-1 or cp1252, or already lost
UNUSUAL = {"Cc", "Cf", "Cn", "Co", "Cs", "So"}
LATIN = ("LATIN", "MODIFIER")
MIN_SAME_WORDS, MIN_SAME_PHRASES, PHRASE_WORDS = 4, 3, 6


def failed_text_checks(text: str) -> dict[str, str]:
    """Oddity (a key of `TEXT_CHECKS`) -> the piece of `text` that shows it; empty for plain English prose."""
    words = text.split()
    if not words:
        return {"text_empty": ""}
    letters = [character for character in text if character.isalpha()]
    found: dict[str, str] = {}
    if not letters:
        found["no_letters"] = text[:40]
    if other := [
        c for c in letters if ord(c) > 0x24F and not unicodedata.name(c, "").startswith(("LATIN", "MODIFIER"))
    ]:
        found["other_script"] = "".join(other[:12])
    for name, pattern in (("urls", URL), ("markup", MARKUP)):
        if match := pattern.search(text):
            found[name] = match.group()[:40]
    unusual = [c for c in text if c not in "\n\t\r°©®¦" and unicodedata.category(c) in UNUSUAL]
    if unusual or MOJIBAKE.search(text):
        found["unusual_characters"] = " ".join(f"U+{ord(c):04X}" for c in unusual[:4]) or "broken UTF-8"
    if len(letters) >= 4 and len(words) > 1 and text.upper() == text and text.lower() != text:
        found["all_caps"] = text[:40]
    if match := DIGITS.search(text):
        found["digits"] = match.group()[:40]
    if again := repeated(words):
        found["repeated_words"] = again[:40]
    return found


def repeated(words: list[str]) -> str:
    """The word said `MIN_SAME_WORDS` times in a row, or the phrase said `MIN_SAME_PHRASES` times; "" if none is."""
    plain = [word.strip(".,;:!?\"'").casefold() for word in words]
    for size in range(1, PHRASE_WORDS + 1):
        least = (MIN_SAME_WORDS if size == 1 else MIN_SAME_PHRASES) * size - size
        run = 0  # words that equal the one `size` words before
        for i in range(size, len(plain)):
            run = run + 1 if plain[i] == plain[i - size] and plain[i] else 0
            if run >= least:
                return " ".join(words[i - size + 1 : i + 1])
    return ""
