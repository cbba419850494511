"""The look of the HTML page and the few lines of script on it. System fonts only: the page asks the network for nothing."""

from __future__ import annotations

from typing import Final

# States of a verdict carry a word beside their colour, so that nothing hangs on colour alone.
CSS: Final = """
:root { --ink: #1d2430; --soft: #5a6474; --line: #dfe3e8; --paper: #fff; --wash: #f6f7f9; --blue: #0072b2; --red: #b3261e; --amber: #8a5a00; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--wash); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 19px; margin: 40px 0 4px; }
h3 { font-size: 15px; margin: 22px 0 6px; }
h3.first { margin-top: 0; }
p { margin: 0 0 10px; max-width: 88ch; }
.soft, .caption { color: var(--soft); }
code, .mono { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, monospace; font-size: 13px; }
a { color: inherit; text-decoration-color: #a9b2bf; text-underline-offset: 2px; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 14px 18px; margin: 12px 0; }
.scroll { overflow-x: auto; }
.verdicts { list-style: none; margin: 18px 0 0; padding: 0; }
.verdicts > li { display: grid; grid-template-columns: 148px 1fr; gap: 2px 16px; background: var(--paper); border: 1px solid var(--line);
  border-left: 5px solid var(--soft); border-radius: 6px; padding: 10px 16px; margin: 8px 0; }
.verdicts .state { font-weight: 700; font-size: 13px; letter-spacing: .03em; padding-top: 1px; }
.verdicts .busy { border-left-color: var(--blue); } .busy .state { color: var(--blue); }
.verdicts .starved { border-left-color: #d55e00; } .starved .state { color: #a84a00; }
.verdicts .invalid, .verdicts .incomplete { border-left-color: var(--red); } .invalid .state, .incomplete .state { color: var(--red); }
.verdicts .name { font-weight: 600; overflow-wrap: anywhere; }
.verdicts .say { grid-column: 2; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 13px; white-space: nowrap; }
th, td { padding: 5px 16px 5px 0; vertical-align: top; border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; }
.runs { width: 100%; font-size: 14px; } .runs th, .runs td { padding-right: 10px; white-space: nowrap; }
.runs td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 150px; font-weight: 600; }
.right { text-align: right; }
.mark { display: inline-block; width: 1.1em; text-align: center; font-weight: 700; }
.error { color: var(--red); } .warning { color: var(--amber); }
.chip { display: inline-block; border: 1px solid currentColor; border-radius: 4px; padding: 0 6px; font-size: 12px; font-weight: 700; }
.runs tr > :last-child { padding-right: 0; }
.scroll + .caption { margin-top: 8px; }
.small { font-size: 14px; } .small .right { white-space: nowrap; } .scroll .small td:not(.right) { min-width: 9em; overflow-wrap: anywhere; } .small td, .small th { padding-top: 3px; padding-bottom: 3px; }
.legend { margin-top: 8px; font-size: 13px; color: var(--soft); }
.finding { margin: 0 0 10px; } .finding .hint { color: var(--soft); display: block; }
.facts { columns: 3 340px; column-gap: 36px; }
.facts section { break-inside: avoid; } .facts h3 { margin-top: 0; padding-top: 14px; }
.facts table { width: 100%; } .facts td { overflow-wrap: anywhere; font-size: 14px; padding: 3px 10px 3px 0; }
.facts td:first-child { color: var(--soft); overflow-wrap: break-word; } .facts th { padding: 3px 10px 3px 0; white-space: normal; }
.facts.wide { columns: 1; } .facts.wide table { width: auto; min-width: 50%; } .facts.wide :is(th, td) { padding-right: 32px; }
.facts.wide td:first-child { color: var(--ink); }
details { border-top: 1px solid var(--line); padding: 8px 0; } details:first-child { border-top: 0; }
summary { cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }
.plot { width: 100%; }
.why { margin: 4px 0 6px; padding-left: 20px; } .thin { font-weight: 400; }
footer { margin-top: 40px; color: var(--soft); font-size: 13px; }
@media (max-width: 640px) { .verdicts > li { grid-template-columns: 1fr; } .verdicts .say { grid-column: 1; } }
@media print { body { background: #fff; } .card { break-inside: avoid; } }
"""

# The figures lie on the page as data; an id of a plot is the id of its box. What is in a closed fold is drawn when that is first opened: its box has no
# width before, and a page of many runs would take long to draw. plotly.js 4 would by default offer to upload a figure to its maker's
# cloud: a report of somebody's storage gets no such button.
SCRIPT: Final = """
const config = {displaylogo: false, responsive: true, showSendToCloud: false, plotlyServerURL: "", modeBarButtonsToRemove: ["select2d", "lasso2d"]};
const draw = figure => Plotly.newPlot(figure.id, figure.data, figure.layout, config);
for (const figure of JSON.parse(document.getElementById("figures").textContent)) {
  const fold = document.getElementById(figure.id).closest("details:not([open])");
  if (fold) fold.addEventListener("toggle", () => draw(figure), {once: true});
  else draw(figure);
}
"""

# Belt and braces: even a slip in escaping could not make the page call out.
CONTENT_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
