"""Commands about what is there: assets, data, versions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from salad import __version__
from salad.cli.common import LOOK, Group, Trusted, command, print_table

app = typer.Typer()
assets_app = typer.Typer(
    help="List, fetch and check the weights that a recipe can name.", no_args_is_help=True, cls=Group
)
data_app = typer.Typer(help="Look speech data over.", no_args_is_help=True, cls=Group)


@command(app, "salad version", LOOK)
def version() -> None:
    """Print the versions of salad, Python and the libraries that decide results."""
    from salad.pipeline.fingerprints import LIBRARIES, versions

    known = versions()
    typer.echo(f"salad {__version__}\npython {known['python']}")
    for library in LIBRARIES:
        typer.echo(f"{library} {known.get(library, 'not installed')}")


@command(assets_app, "salad assets list", name="list")
def assets_list() -> None:
    """Show the names that a recipe can use, and which of them are in the cache."""
    from salad.assets import ASSETS, is_cached

    rows = [
        (
            name,
            "yes" if is_cached(name) else "no",
            f"{asset.num_bytes / 1e6:.0f} MB",
            asset.licence,
            asset.description,
        )
        for name, asset in ASSETS.items()
    ]
    print_table(("name", "cached", "size", "licence", "what it is"), rows)


@command(assets_app, "salad assets check smollm2-135m-instruct", name="check")
def assets_check(llm: Annotated[str, typer.Argument(help="A text LLM: its name, folder or GGUF.")]) -> None:
    """Read a few tokens with a text LLM in every way that matters, and say what is right, slow or refused."""
    from salad.assets import llm_folder
    from salad.model.check import check_folder

    found = check_folder(llm_folder(llm), again=True)
    print_table(*found.table())
    typer.echo(f"{llm} ({found.family}): {found.how}")
    found.require(llm)


@command(assets_app, "salad assets get piper-joe", name="get")
def assets_get(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Names from `salad assets list`.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every asset in the list.")] = False,
) -> None:
    """Fetch assets into the cache, check their sha256 and print where they are."""
    from salad.assets import ASSETS, get
    from salad.assets.store import asset_named
    from salad.types import SaladError

    if bool(names) == everything:
        raise SaladError("assets get: expected names from `salad assets list`, or --all (and not both)")
    for name in names or []:
        asset_named(name)
    wanted = list(ASSETS) if everything else names or []
    print_table(("name", "path"), [(name, str(get(name))) for name in wanted])


@command(assets_app, "salad assets verify", name="verify")
def assets_verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Default: all in the cache.")] = None,
) -> None:
    """Compare cached files with their pinned sha256; exit code 1 where one differs or is missing."""
    from salad.assets import ASSETS, is_cached, verify
    from salad.assets.store import asset_named

    for name in names or []:
        asset_named(name)
    rows = [
        (name, file, status)
        for name in names or [name for name in ASSETS if is_cached(name)]
        for file, status in verify(name)
    ]
    print_table(("name", "file", "status"), rows)
    if any(status != "ok" for _, _, status in rows):
        raise typer.Exit(1)


@command(data_app, "salad data inspect my-recordings --html data.html", name="inspect")
def data_inspect(
    place: Annotated[
        Path, typer.Argument(metavar="DIR", help="A run, a stage's folder, shards, a manifest, or a folder of audio.")
    ],
    html: Annotated[Path | None, typer.Option("--html", metavar="PATH", help="Write a page with histograms.")] = None,
    to_json: Annotated[Path | None, typer.Option("--json", metavar="PATH", help="Write all figures.")] = None,
    headers: Annotated[
        bool,
        typer.Option(
            "--headers", help="Read headers alone. This is quick, but finds no silence, clipping or duplicates."
        ),
    ] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: one a core.")] = None,
    min_s: Annotated[float, typer.Option("--min-s", min=0, help="Shorter recordings are called too short.")] = 0.3,
    max_s: Annotated[float, typer.Option("--max-s", min=0, help="Longer recordings are called too long.")] = 120.0,
    trusted: Trusted = False,
) -> None:
    """Say what speech data holds and what is wrong with it: hours, lengths, levels, texts, the worst files by name."""
    from salad import records
    from salad.data.inspect.inspection import inspect_data
    from salad.files import writable_file, write_json
    from salad.report.data_page import fault_rows, overview_rows, quarantine_rows, write_data_page

    for target, field in ((to_json, "--json"), (html, "--html")):
        if target is not None:
            writable_file(target, field)
    processes = workers or len(os.sched_getaffinity(0))
    result = inspect_data(place, decode=not headers, workers=processes, min_s=min_s, max_s=max_s, trusted=trusted)
    if to_json is not None:
        write_json(to_json, records.to_json(result))
    if html is not None:
        write_data_page(result, html)
    print_table(("what", "figure"), overview_rows(result))
    print_table(("fault", "utterances", "the worst", "what to do"), fault_rows(result))
    if result.quarantine:
        print_table(("stage", "set aside because", "items", "such as"), quarantine_rows(result))
