"""The style sheet of `report.html`: a plain white page, readable on paper too. Knows no content."""

STYLE = """
:root { color-scheme: light; --ink: #1d2733; --muted: #66717e; --line: #e4e8ed; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1144px; margin: 0 auto; padding: 40px 32px 64px; }
h1 { font-size: 27px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 52px 0 4px; }
p { margin: 4px 0 12px; max-width: 112ch; }
.muted, figcaption, dt { color: var(--muted); }
.cards { display: grid; gap: 14px; margin: 28px 0 8px;
  grid-template-columns: repeat(auto-fit, minmax(196px, 1fr)); }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px 12px; }
.card .name { color: var(--muted); font-size: 13px; }
.card .value { font-size: 23px; font-weight: 650; line-height: 1.35; white-space: nowrap; }
.card .note { color: var(--muted); font-size: 13px; }
dl { display: grid; gap: 2px 20px; margin: 20px 0 0; font-size: 14px;
  grid-template-columns: max-content 1fr max-content 1fr; }
dd { margin: 0; overflow-wrap: anywhere; }
dd:last-child { grid-column: 2 / -1; }
figure { margin: 14px 0 0; overflow-x: auto; }
figure svg { display: block; width: 100%; min-width: 720px; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: inherit !important; }
figcaption { font-size: 13px; margin-top: 6px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 12px 0 0; padding: 0;
  list-style: none; font-size: 13px; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 2px;
  margin-right: 6px; vertical-align: -1px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums;
  width: 100%; margin-top: 12px; }
th, td { text-align: right; padding: 4px 7px; border-bottom: 1px solid var(--line); }
th { color: var(--muted); font-weight: 500; vertical-align: bottom; line-height: 1.25; }
tbody tr:hover { background: #f5f7f9; }
pre { background: #f5f7f9; border-radius: 8px; padding: 16px 18px; overflow-x: auto;
  font: 13px/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
details { margin-top: 10px; font-size: 14px; }
summary { cursor: pointer; color: var(--muted); }
.names { columns: 4 220px; font-size: 13px; margin: 8px 0 0; padding: 0; list-style: none; }
.names li { overflow-wrap: anywhere; }
footer { margin-top: 56px; color: var(--muted); font-size: 13px; }
@media (max-width: 720px) { dl { grid-template-columns: max-content 1fr; } main { padding: 20px; } }
@media print { main { max-width: none; padding: 0; } h2 { break-after: avoid; }
  figure { break-inside: avoid; } }
"""
