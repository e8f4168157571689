"""--endpoint of the gate: what is not the URL of a server (answers of one: tests/collect/test_lying_server.py)."""

from collections.abc import Callable, Iterator

from attacks.attack import Attack, Box

URLS = {
    "a file": "file:///etc/passwd",
    "ftp": "ftp://127.0.0.1/model",
    "no scheme": "localhost:30000",
    "a port that is none": "http://127.0.0.1:99999",
    "a line break": "http://127.0.0.1:1\r\nX-Header: 1",
}
SECRETS = {"a password": "http://me:hunter2@127.0.0.1:1", "a key": "http://127.0.0.1:1/?key=hunter2"}


def attacks() -> Iterator[Attack]:
    for name, url in URLS.items():
        yield Attack(name, gate(url), says="is not the URL of a server", slow=name not in ("a file", "a line break"))
    for name, url in SECRETS.items():
        yield Attack(
            name, gate(url), says="not shown", slow=True,
            then=lambda _, ended: "a secret is shown" if "hunter2" in ended.out + ended.err else "",
        )  # fmt: skip


def gate(url: str) -> Callable[[Box], list[object]]:
    def words(box: Box) -> list[object]:
        given = ["--packs", box.packs(), "--results", box.path / "results", "--collector", "sglang"]
        return ["gate", "--base", box.base(), *given, f"--endpoint={url}"]

    return words
