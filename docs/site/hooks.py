"""Hooks of the documentation site: pages from outside docs/, links into the repository, and TeX as MathML.

All pages are written to be read on GitHub. What the site needs in addition is done here, while it is built.
"""

from __future__ import annotations

import html
import logging
import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
# Files of the repository, outside docs/, that the site has as pages.
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "code_of_conduct.md",
    "configs/README.md": "configs.md",
    "benchmarks/RESULTS.md": "results.md",
}
_SOURCES = {page: source for source, page in PAGES.items()}
_LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")
_TABLE_ROW = re.compile(r"^\|.*$", re.MULTILINE)
_CODE = re.compile(r"`[^`]+`")
_HREF = re.compile(r'(?<=href=")(?!\w+:)([^"#]+)(#[^"]*)?(?=")')
_TEX = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
# What the converter does not know, and what it does know instead.
_TEX_FOR_CONVERTER = (
    (re.compile(r"(?:\\[bB]ig+[lrm]?\s*)?\\\|"), r"\\Vert "),
    (re.compile(r"\\arg\b"), r"\\operatorname{arg}"),
)
_FUNCTION = re.compile(r"<m[io]>([A-Za-z]{2,})</m[io]>(?=(<mo[^>]*>&#x00028;)?)")
_NOTEBOOK_TEX = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
_NOTEBOOK_INLINE_TEX = re.compile(r"(?<=[ (])\$(?! )([^$<\n]+?)\$(?=[ .,;)])")
_log = logging.getLogger("mkdocs.hooks.site")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    for page, source in _SOURCES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that are right in the repository into links that are right on the site."""
    place = page.file.src_uri

    def on_site(match: re.Match[str]) -> str:
        found = _in_repository(match[1], place)
        if found is None:
            return match[0]  # elsewhere, or broken: MkDocs reports that
        anchor = "" if found == "README.md" else match[2] or ""  # the home page has other headings
        return posixpath.relpath(_published(found, files, config), posixpath.dirname(place) or ".") + anchor

    return _TABLE_ROW.sub(_unescaped, _LINK.sub(on_site, markdown))


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Render TeX as MathML, which browsers draw without a script; in notebooks, turn links to files into links to pages."""

    def on_site(match: re.Match[str]) -> str:
        found = _in_repository(match[1], page.file.src_uri)
        file = files.get_file_from_path(_published(found, files, config)) if found else None
        if file is None:
            _log.warning("%s links to %s, which does not exist", page.file.src_uri, match[0])
            return match[0]
        return file.url_relative_to(page.file) + (match[2] or "")

    if page.file.src_uri.endswith(".ipynb"):
        content = _HREF.sub(on_site, content)
        content = _NOTEBOOK_TEX.sub(r'<div class="arithmatex">\\[\1\\]</div>', content)
        content = _NOTEBOOK_INLINE_TEX.sub(r'<span class="arithmatex">\\(\1\\)</span>', content)
    return _TEX.sub(lambda match: _mathml(match, page), content)


def _unescaped(row: re.Match[str]) -> str:
    """Drop the backslash that GitHub needs before a bar in a table's code, and that Python-Markdown would show."""
    return _CODE.sub(lambda code: code[0].replace("\\|", "|"), row[0])


def _in_repository(target: str, place: str) -> str | None:
    """Return the path from the repository's root of what a page links to; None if there is no such file."""
    source = _SOURCES.get(place, f"docs/{place}")
    found = posixpath.normpath(posixpath.join(posixpath.dirname(source), unquote(target)))
    return found if ":" not in target and not found.startswith("..") and (ROOT / found).exists() else None


def _published(path: str, files: Files, config: MkDocsConfig) -> str:
    """Return where the site has a file of the repository; what is no page is copied there, as text."""
    if path == "README.md":
        return "index.md"
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    place = f"files/{path}.txt"
    if files.get_file_from_path(place) is None:
        files.append(File.generated(config, place, content=_text(ROOT / path)))
    return place


def _text(path: Path) -> str:
    """Return a file's text; of a folder, the names of its files."""
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = (file.relative_to(path) for file in path.rglob("*.*") if file.is_file() and "__pycache__" not in file.parts)
    return "".join(f"{name}\n" for name in sorted(map(str, found)))


def _mathml(match: re.Match[str], page: Page) -> str:
    block = match[2] == "["
    tex = html.unescape(match[3]).strip()
    for unknown, known in _TEX_FOR_CONVERTER:
        tex = unknown.sub(known, tex)
    formula = convert(tex, display="block" if block else "inline")
    if "\\" in formula:
        _log.warning("%s has a formula with a command that the site does not know: %s", page.file.src_uri, tex)
    formula = _FUNCTION.sub(_function, formula)
    return f'<div class="formula">{formula}</div>' if block else formula


def _function(match: re.Match[str]) -> str:
    """Space the name of a function as TeX does: thinly, and not before a bracket."""
    after = "0" if match[2] else "0.17em"
    return f'<mo lspace="0.17em" rspace="{after}">{match[1]}</mo>'
