"""The commands that talk, and the one that hands a model on: serve, chat, export."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from salad.api import model_place, takes_bf16
from salad.cli.common import BEGIN, MAKE, Device, Precision, command

app = typer.Typer()

Ears = Annotated[str, typer.Argument(metavar="[MODEL]", help="Ears by name, a run, a model's folder, or OWNER/NAME.")]


@command(app, "salad serve --port 8000", BEGIN)
def serve(
    model: Ears = "salad-smollm2-135m-ears",
    host: Annotated[
        str, typer.Option("--host", help="Where to listen; another machine's requests want --api-key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="SALAD_API_KEY", help="What a client shows as `Bearer KEY`.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", metavar="NAME", help="A further name that clients call it by.")
    ] = None,
    allow_audio_urls: Annotated[
        bool, typer.Option("--allow-audio-urls", help="Fetch recordings from public http addresses.")
    ] = False,
    max_audio_s: Annotated[
        float, typer.Option("--max-audio-s", min=0.1, help="Longest sound of one request, in seconds.")
    ] = 120.0,
    max_concurrency: Annotated[int, typer.Option("--max-concurrency", min=1, help="Answers at a time.")] = 16,
    max_queue: Annotated[int, typer.Option("--max-queue", min=0, help="Requests that may wait; more get a 429.")] = 64,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=1, help="Longest time of one request, in seconds.")
    ] = 300.0,
    asr: Annotated[
        str, typer.Option("--asr", help="Asset, hub name or folder of the cascade's ASR on the page; none: no cascade.")
    ] = "whisper-tiny.en",
    ssl_certfile: Annotated[Path | None, typer.Option("--ssl-certfile", help="For https, with --ssl-keyfile.")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option("--ssl-keyfile", help="The key of --ssl-certfile.")] = None,
    precision: Precision = "fp32",
    device: Device = "cpu",
) -> None:
    """Serve a page with a microphone, and OpenAI's API, on this machine."""
    from salad.types import SaladError

    try:
        from salad.serve.server import address, make_server
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("salad"):
            raise
        raise SaladError(f"serve: {error.name} is not installed; pip install 'salad-speech[serve]'") from None
    from salad.serve.served_model import ServedModel
    from salad.serve.settings import Settings

    settings = Settings(
        host, port, api_key, tuple(allow_host or ()), allow_audio_urls, max_audio_s, max_concurrency, max_queue,
        timeout_s=timeout_s,
        asr="" if asr == "none" else asr,
        ssl_certfile=None if ssl_certfile is None else str(ssl_certfile),
        ssl_keyfile=None if ssl_keyfile is None else str(ssl_keyfile),
    )  # fmt: skip
    bf16 = takes_bf16(precision, model_place(model), device, writes=True)
    server = make_server(ServedModel.load(model, device=device, bf16=bf16), settings)
    typer.echo(address(settings))
    server.run()


@command(app, "salad chat --audio question.wav --text 'Answer in one word.'", BEGIN)
def chat(
    model: Ears = "salad-smollm2-135m-ears",
    audio: Annotated[
        list[Path] | None, typer.Option("--audio", metavar="FILE", help="A recording to hear; may be given again.")
    ] = None,
    text: Annotated[str, typer.Option("--text", help="What is written behind it, or instead of it.")] = "",
    microphone: Annotated[
        bool, typer.Option("--microphone", help="An empty line listens, the next one ends it (by sounddevice).")
    ] = False,
    system: Annotated[str, typer.Option("--system", help="The system turn; default: the LLM's own.")] = "",
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer.")] = 256,
    precision: Precision = "fp32",
    device: Device = "cpu",
) -> None:
    """Talk in a terminal: one question by --audio and --text, or line by line; a line that names a file is heard."""
    from salad.serve.served_model import ServedModel
    from salad.serve.terminal import Conversation, record
    from salad.types import SaladError

    bf16 = takes_bf16(precision, model_place(model), device, writes=True)
    talk = Conversation(ServedModel.load(model, device=device, bf16=bf16), system=system, max_tokens=max_tokens)
    try:
        if audio or text:
            _print_pieces(talk.ask(text, audio or []))
            return
        lines = map(str.strip, typer.get_text_stream("stdin"))
        for line in lines:
            try:
                if microphone and not line:
                    typer.secho("Speak; Enter ends it.", err=True)
                    _print_pieces(talk.ask("", [record(talk.rate_hz, lambda: next(lines, ""))]))
                elif line:
                    _print_pieces(talk.ask("", [Path(line)]) if os.path.isfile(line) else talk.ask(line))
            except SaladError as error:
                typer.secho(f"Error: {error}", fg=typer.colors.RED, err=True)
    finally:
        talk.close()


@command(app, "salad export runs/demo --to my-ears", MAKE)
def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Ears by name, a run directory, or a saved model's folder.")
    ],
    to: Annotated[str, typer.Option("--to", metavar="FOLDER", help="A new folder; with --push OWNER/NAME.")],
    merge_lora: Annotated[bool, typer.Option("--merge-lora", help="LoRA's weights go into the LLM's own.")] = False,
    dtype: Annotated[str, typer.Option("--dtype", help="Of the LLM: float32, bfloat16 or float16.")] = "float32",
    push: Annotated[bool, typer.Option("--push", help="Upload it to the hub with your token; private.")] = False,
    public: Annotated[bool, typer.Option("--public", help="With --push: for everybody to see.")] = False,
) -> None:
    """Make one folder, encoder and code inside, that transformers loads where salad is not installed."""
    from salad.pipeline.export import export_model, export_to_hub
    from salad.types import SaladError

    place = model_place(model)
    if push:
        typer.echo(export_to_hub(place, to, merge_lora=merge_lora, dtype=dtype, public=public))
    elif public:
        raise SaladError("--public: it is about what --push uploads; add --push")
    else:
        typer.echo(export_model(place, to, merge_lora=merge_lora, dtype=dtype))


def _print_pieces(pieces: Iterable[str]) -> None:
    for piece in pieces:
        typer.echo(piece, nl=False)
    typer.echo()
