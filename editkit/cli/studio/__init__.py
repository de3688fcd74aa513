"""`editkit studio`: edit in a browser, on this machine.

The studio belongs to the command line, not to the engine: it is another way to enter an edit. It reads and writes
edits as commands (`notations`) and runs them as every command does (`editing.result.make`).
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from editkit.cli.studio.config import Config

app = typer.Typer(add_completion=False)


@app.command()
def studio(  # long: every parameter is an option with its help
    place: Annotated[str, typer.Argument(help="A folder of pictures, or a picture to open first.")] = ".",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 8765,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs a secret.")
    ] = "127.0.0.1",
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    password: Annotated[
        str | None, typer.Option(help="Password for access from other machines; - prompts for it.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token, instead of a newly generated one.")
    ] = None,
    allow_model: Annotated[
        list[str] | None,
        typer.Option(help="A model, LoRA or other network that recipes may name; repeatable."),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Download allowed models that are not on this machine.")
    ] = False,
    max_megabytes: Annotated[int, typer.Option(min=1, max=1024, help="Largest uploaded file, in MiB.")] = 512,
    max_megapixels: Annotated[float, typer.Option(min=0.01, max=178, help="Largest picture, in megapixels.")] = 178,
) -> None:
    """Open a page for editing the pictures of FOLDER with a brush and every edit that editkit has.

    Only this machine has access, and only with the token in the printed address. Nothing is read or written outside
    FOLDER; results are kept in FOLDER/.editkit-studio until they are saved. Nothing is downloaded without
    --download.
    """
    from editkit.cli.studio.config import MIB, Bounds, Config, is_loopback
    from editkit.errors import UsageError

    folder, picture = _place(place)
    if password == "-":
        password = typer.prompt("password", hide_input=True)
    if password is not None and len(password) < 8:
        raise UsageError("--password: needs at least 8 characters, since others may try to guess it")
    given = {} if token_file is None else {"token": _token(token_file)}
    if not is_loopback(host) and password is None and token_file is None:
        raise UsageError(
            f"--host {host} gives other machines access: whoever knows the secret can read and edit the pictures of "
            f"{folder.name}/, and the connection is not encrypted; add --password - or --token-file FILE, or stay on "
            f"127.0.0.1 and use ssh -L"
        )
    bounds = Bounds(upload=max_megabytes * MIB, pixels=int(max_megapixels * 1e6))
    config = Config(
        folder=folder, password=password, host=host, port=port, models=tuple(allow_model or ()), online=download,
        bounds=bounds, **given,
    )  # fmt: skip
    os.chdir(folder)  # relative paths in an edit are relative to the folder
    serve(config, picture, open_)


def _place(place: str) -> tuple[Path, str | None]:
    """Return the folder, with links resolved, and the picture to open first.

    Raises:
        UsageError: there is no such folder or picture.
    """
    from editkit.errors import UsageError

    path = Path(place).expanduser()
    if path.is_file():
        return path.parent.resolve(), path.name
    if not path.is_dir():
        raise UsageError(f"{place}: no such folder or picture")
    return path.resolve(), None


def _token(file: Path) -> str:
    """Read the token from a file.

    Raises:
        UsageError: the file cannot be read, or its content cannot be part of an address.
    """
    import re

    from editkit.errors import UsageError

    try:
        word = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not re.fullmatch(r"[A-Za-z0-9_-]{20,200}", word):
        raise UsageError(f"{file}: a token consists of 20 to 200 letters, digits, - and _")
    return word


def serve(config: Config, picture: str | None = None, show: bool = False) -> None:
    """Serve until Ctrl-C."""
    from urllib.parse import quote

    from editkit.cli.console import say, write
    from editkit.common.extras import explained

    with explained():
        import uvicorn

        from editkit.cli.studio.server import application
    sock = listening(config)
    host = f"[{config.host}]" if ":" in config.host else config.host
    address = f"http://{host}:{sock.getsockname()[1]}/{config.token}/"
    address += f"#open={quote(picture)}" if picture is not None else ""
    if not config.is_loopback:
        say("other machines have access; the connection is not encrypted, and whoever knows the secret can edit")
    write(f"studio of {config.folder.name}/: {address}")
    say("whoever has this address can edit; Ctrl-C stops the studio")
    if show:
        import webbrowser

        webbrowser.open(address)
    server = uvicorn.Server(
        uvicorn.Config(
            application(config), log_level="error", access_log=False, server_header=False, date_header=False,
            proxy_headers=False, timeout_graceful_shutdown=3, limit_concurrency=400,
            h11_max_incomplete_event_size=16_384,
        )
    )  # fmt: skip
    server.run(sockets=[sock])


def listening(config: Config) -> socket.socket:
    """Open a listening socket; if the default port is taken, on the next free one.

    Raises:
        UsageError: the address cannot be used.
    """
    from editkit.errors import UsageError

    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((config.host, config.port))
        made.listen(128)  # a browser that connects before the server is ready waits
    except OSError as error:
        made.close()
        raise UsageError(f"{config.host}:{config.port}: cannot listen there: {error.strerror}; try --port 0") from None
    return made
