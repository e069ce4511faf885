"""Check what the documents say of the repository: links, commands, examples; and that languages keep step.

    python tools/check_docs.py

Needs nothing but Python. Names every fault with file and line, and exits with 1 if there is one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
IN_TWO_LANGUAGES = ("README.md", "docs/guide.md")

FENCE = re.compile(r"\s*(```+|~~~+)\s*(\w*)")
HEADING = re.compile(r"(#{1,6})\s+(.+?)\s*#*$")
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
MAKE = re.compile(r"\bmake ([a-z][a-z-]*)")
CODE = re.compile(r"(`+)(.+?)\1")
TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    line: int
    language: str
    text: str


class Document:
    """A Markdown file, taken apart into prose, blocks of code and headings."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.prose: list[tuple[int, str]] = []
        self.blocks: list[Block] = []
        self.headings: list[tuple[int, int, str]] = []  # line, level, text
        self._take_apart(path.read_text(encoding="utf-8").splitlines())
        self.anchors = set(self._anchors())

    @property
    def name(self) -> str:
        """Its path, as the repository knows it."""
        return self.path.relative_to(ROOT).as_posix()

    def _take_apart(self, lines: list[str]) -> None:
        fence, start, language, inside = "", 0, "", list[str]()
        for number, line in enumerate(lines, 1):
            mark = FENCE.match(line)
            if fence:
                if mark and mark[1].startswith(fence) and not mark[2]:
                    self.blocks.append(Block(start, language, "\n".join(inside)))
                    fence = ""
                else:
                    inside.append(line)
            elif mark:
                fence, start, language, inside = mark[1], number, mark[2], []
            else:
                self.prose.append((number, line))
                if heading := HEADING.match(line):
                    self.headings.append((number, len(heading[1]), heading[2]))
        if fence:
            raise SystemExit(f"{self.name}:{start}: this block of code does not end")

    def _anchors(self) -> Iterator[str]:
        """Name the headings as forges do: lower case, hyphens for spaces, a number for a namesake."""
        seen: dict[str, int] = {}
        for _, _, text in self.headings:
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
            slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
            count = seen[slug] = seen.get(slug, -1) + 1
            yield f"{slug}-{count}" if count else slug

    def shell(self) -> Iterator[tuple[int, str]]:
        """Everything that is shown as code, so may be a command."""
        for number, line in self.prose:
            yield from ((number, code[2]) for code in CODE.finditer(line))
        for block in self.blocks:
            yield from enumerate(block.text.splitlines(), block.line + 1)


def bad_links(document: Document, documents: dict[Path, Document]) -> Iterator[str]:
    """Links into the repository that lead nowhere."""
    for number, line in document.prose:
        for link in LINK.finditer(CODE.sub("", line)):
            target, _, anchor = link[1].partition("#")
            if ELSEWHERE.match(target):
                continue
            path = (document.path.parent / unquote(target)).resolve() if target else document.path
            if not path.exists():
                yield f"{document.name}:{number}: there is no {target}"
            elif anchor and path in documents and unquote(anchor) not in documents[path].anchors:
                yield f"{document.name}:{number}: {documents[path].name} has no heading #{anchor}"


def bad_commands(document: Document, targets: set[str]) -> Iterator[str]:
    """Commands `make …` that the Makefile does not know."""
    for number, code in document.shell():
        for command in MAKE.finditer(code):
            if command[1] not in targets:
                yield f"{document.name}:{number}: the Makefile has no target {command[1]}"


def bad_examples(document: Document) -> Iterator[str]:
    """Python that is none."""
    for block in document.blocks:
        if block.language in ("python", "py"):
            try:
                compile(block.text, document.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
            except SyntaxError as error:
                yield f"{document.name}:{block.line + (error.lineno or 0)}: {error.msg}"


def out_of_step(name: str, documents: dict[Path, Document]) -> Iterator[str]:
    """What one language has and the other has not: headings, or lines of Python."""
    english = documents.get(ROOT / name)
    chinese = documents.get((ROOT / name).with_suffix(".zh-CN.md"))
    if english is None or chinese is None:
        yield f"{name} must exist in English and in Chinese ({Path(name).with_suffix('.zh-CN.md')})"
        return
    for (here, level, text), (there, other_level, other) in zip(
        english.headings, chinese.headings, strict=False
    ):
        if level != other_level:
            yield f"{name}:{here}: '{text}' stands beside '{other}' of another level ({chinese.name}:{there})"
            return
    if len(english.headings) != len(chinese.headings):
        yield f"{name} has {len(english.headings)} headings, {chinese.name} has {len(chinese.headings)}"
    if len(english.blocks) != len(chinese.blocks):
        yield f"{name} has {len(english.blocks)} blocks of code, {chinese.name} has {len(chinese.blocks)}"


def main() -> None:
    """Say every fault, and end with 1 if there is one."""
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    documents = {path: Document(path) for path in sorted(paths)}
    targets = set(TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))
    faults = [fault for name in IN_TWO_LANGUAGES for fault in out_of_step(name, documents)]
    for document in documents.values():
        faults += bad_links(document, documents)
        faults += bad_commands(document, targets)
        faults += bad_examples(document)
    for fault in faults:
        print(fault)
    print(f"{len(documents)} documents, {len(faults)} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
