"""A client of `editkit studio` in 40 lines: `python docs/studio_client.py ADDRESS PICTURE MASK_WORDS OUTPUT`."""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote


class Studio:
    """The studio at an address, as `editkit studio` prints it: the token is in it."""

    def __init__(self, address: str) -> None:
        self.address = address.partition("#")[0]

    def ask(self, path: str, data: object = None) -> bytes:
        """The answer of one address; `data`: bytes are sent as they are, anything else as JSON."""
        body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
        kind = {} if isinstance(data, bytes) or data is None else {"Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.address + path, body, kind)) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise SystemExit(json.load(error)["error"]) from None

    def edit(self, picture: Path, recipe: dict[str, Any]) -> str:
        """Send a picture, ask for an edit of it, and give the edit's name."""
        sent = json.loads(self.ask(f"pictures?name={quote(picture.name)}", picture.read_bytes()))
        return str(json.loads(self.ask("edits", {"picture": sent["id"], "recipe": recipe}))[0]["id"])

    def events(self, edit: str) -> Iterator[dict[str, Any]]:
        """What happens to an edit, until it ends."""
        with urllib.request.urlopen(f"{self.address}edits/{edit}/events") as stream:
            yield from (json.loads(line[6:]) for line in stream if line.startswith(b"data: "))


if __name__ == "__main__":
    studio, (name, words, output) = Studio(sys.argv[1]), sys.argv[2:5]
    wanted = studio.edit(Path(name), {"editkit": 2, "stages": [{"plugins": [{"inpaint": {"mask": words}}]}]})
    for event in studio.events(wanted):
        sys.stderr.write(f"{event.get('state') or event.get('text') or event.get('fraction', '')}\n")
    Path(output).write_bytes(studio.ask(f"edits/{wanted}/result"))
