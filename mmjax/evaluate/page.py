"""The HTML template of the report: a single file, for light and dark mode, narrow and wide screens, and print."""

import html
from collections.abc import Iterable

STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #ffffff; --ink: #1d1f23; --soft: #62666e; --line: #dedbd5;
  --accent: #2f5fd0; --color-0: #2f6fde; --color-1: #d9622b; --color-2: #2a9461; --color-3: #a24bc4; --color-4: #b98a00;
  --color-5: #1497ab; --color-6: #d33f6d; --color-7: #7a7f88; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #14161a; --card: #1c1f24; --ink: #e8e6e1;
  --soft: #9ba0a8; --line: #343941; --accent: #8fb2ff; --color-0: #6fa3ff; --color-1: #ff9563; --color-2: #5fcf97;
  --color-3: #cf8bec; --color-4: #e3b93d; --color-5: #4fcbdd; --color-6: #ff7fa5; --color-7: #a2a7b0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
header p { margin: 0; color: var(--soft); }
h1 { margin: 2px 0 4px; font-size: 30px; line-height: 1.2; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { margin: 44px 0 14px; font-size: 18px; }
h2 small { font-weight: normal; font-size: 14px; color: var(--soft); margin-left: 6px; }
.empty { color: var(--soft); }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 24px; }
.tile, .chart, .table, details { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 12px 18px; min-width: 130px; }
.tile b { display: block; font-size: 26px; line-height: 1.25; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.table { overflow-x: auto; padding: 4px 18px 8px; width: fit-content; max-width: 100%; }
table { border-collapse: collapse; }
th, td { padding: 6px 18px 6px 0; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-right: 44px; }
th:last-child, td:last-child { padding-right: 0; }
th { color: var(--soft); font-weight: normal; font-size: 13px; }
tbody tr { border-top: 1px solid var(--line); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 14px; }
.chart { margin: 0; padding: 14px 16px 12px; }
.chart figcaption { font-weight: 600; font-size: 14px; margin-bottom: 4px; overflow-wrap: anywhere; }
.chart svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; fill: var(--soft) !important; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12.5px; color: var(--soft); margin-top: 6px; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 5px; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(var(--card-width), 1fr)); gap: 20px 16px; }
.sample { break-inside: avoid; }
.pair { display: flex; gap: 4px; }
.pair div { flex: 1; min-width: 0; max-width: 288px; font-size: 11.5px; color: var(--soft); }
.sample p { margin: 4px 0 0; font-size: 13.5px; line-height: 1.35; overflow-wrap: anywhere; }
img { display: block; width: 100%; height: auto; border-radius: 4px; background: var(--line); }
img.pixels { image-rendering: pixelated; }
.progress { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 12px; align-items: center;
  max-width: 800px; font-size: 13px; color: var(--soft); font-variant-numeric: tabular-nums; }
.progress span { text-align: right; }
details { margin-top: 44px; padding: 12px 18px; }
details + details { margin-top: 14px; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin: 10px 0 4px; }
footer { margin-top: 44px; color: var(--soft); font-size: 13px; }
@media (max-width: 600px) { main { padding: 24px 14px 40px; } h1 { font-size: 24px; }
  .table { padding: 2px 12px 6px; } th:first-child, td:first-child { padding-right: 18px; } }
@media print { main { max-width: none; padding: 0; } .chart, .tile, .table { break-inside: avoid; }
  h2 { break-after: avoid; } body { background: white; } }
"""


def page(title: str, subtitle: str, sections: Iterable[str], footer: str) -> str:
    """A complete HTML document. `sections` are HTML; the other arguments are plain text."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)} · mmjax</title><style>{STYLE}</style></head>\n<body><main>"
        f"<header><p>mmjax report</p><h1>{html.escape(title)}</h1><p>{html.escape(subtitle)}</p></header>\n"
        + "\n".join(filter(None, sections))
        + f"\n<footer>{html.escape(footer)}</footer></main></body></html>\n"
    )
