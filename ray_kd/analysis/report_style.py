"""The HTML page around the report, and its CSS."""

from __future__ import annotations

_CSS = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1d1f23; --soft: #5b6068; --line: #dcdfe4;
  --panel: #f5f6f8; --accent: #0072b2; --better: #00734f; --worse: #b34600; --same: #8a3a75; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e6e8eb; --soft: #a2a8b1;
  --line: #353a42; --panel: #1f2329; --accent: #6fc0ef; --better: #4fd0a5; --worse: #ff9455;
  --same: #e6a3cf; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
header p.name { margin: 0; color: var(--soft); letter-spacing: .04em; }
h1 { font-size: 1.65rem; line-height: 1.25; margin: .2rem 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .8rem; }
p.headline { font-size: 1.1rem; margin: 0; padding: .9rem 1.1rem; background: var(--panel);
  border-left: 4px solid var(--accent); border-radius: 0 6px 6px 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .6rem; text-align: right; white-space: nowrap; }
thead th { vertical-align: bottom; color: var(--soft); font-weight: 600; line-height: 1.3;
  border-bottom: 1.5px solid var(--soft); }
tbody tr { border-bottom: 1px solid var(--line); }
tbody th { font-weight: 400; white-space: normal; }
th:first-child, td:first-child, table.plain th, table.plain td { text-align: left; }
table.plain td { white-space: normal; }
tr.better td:nth-child(5), tr.better td:nth-child(6) { color: var(--better); }
tr.worse td:nth-child(5), tr.worse td:nth-child(6) { color: var(--worse); }
tr.the-same td:nth-child(5), tr.the-same td:nth-child(6) { color: var(--same); }
tr.better td:nth-child(6), tr.worse td:nth-child(6), tr.the-same td:nth-child(6) { font-weight: 700; }
ul.notes { color: var(--soft); font-size: .88rem; padding-left: 1.1rem; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line);
  border-radius: 6px; padding: .8rem; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .5rem; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .35rem 1.2rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem;
  overflow-x: auto; font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
details { margin: .5rem 0; }
summary { cursor: pointer; color: var(--accent); }
@media print { main { max-width: none; padding: 0; } section { break-inside: avoid; } }
"""

PAGE = (
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>"""
    + _CSS.replace("{", "{{").replace("}", "}}")
    + """</style>
</head>
<body>
<main>
<header>
<p class="name">ray-kd · sweep {name}</p>
<h1>{question}</h1>
<p class="headline">{headline}</p>
</header>
{sections}
</main>
</body>
</html>
"""
)
