"""A page as a browser sees it."""

from collections import Counter
from html.parser import HTMLParser

_VOID = {"meta", "img", "link", "br"}


class Seen(HTMLParser):
    """Counts tags, notes what the page would fetch, checks that every tag is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.fetched: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "poster", "data")]
        if tag not in _VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def outside(self) -> list[str]:
        """What is not in the page itself."""
        return [source for source in self.fetched if not source.startswith(("data:image/jpeg;base64,", "data:video/"))]
