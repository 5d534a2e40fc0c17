// The page's style sheet: light and dark, wide and narrow. Colours are those of Okabe and Ito, told apart by colour-blind
// readers, and never the only sign of anything.

export const STYLE = `
:root {
  color-scheme: light dark;
  --page: #fbfbfa; --card: #fff; --ink: #1f2328; --soft: #59636e; --rule: #dde1e5; --fill: #f0f2f4;
  --s0: #0067a3; --s1: #c2540a; --s2: #00805c; --s3: #9a4a80; --s4: #6b6100;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --card: #1b1f23; --ink: #e4e7ea; --soft: #9aa4ae; --rule: #343a41; --fill: #262b31;
    --s0: #6cb6ea; --s1: #f09a4d; --s2: #45c39c; --s3: #d999c2; --s4: #d9cc4a;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 24px 20px 64px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 28px; line-height: 1.25; margin: 0 0 12px; display: flex; flex-wrap: wrap; align-items: center; gap: 6px 12px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 8px; }
p { margin: 0 0 8px; }
pre { margin: 0; font: 13px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
summary { cursor: pointer; }
:focus-visible { outline: 2px solid var(--s0); outline-offset: 2px; border-radius: 4px; }
.brand, .note, .empty { color: var(--soft); font-size: 13px; }
.brand { margin: 0; }
section > .note { max-width: 90ch; }
.state { font-size: 13px; font-weight: 600; border: 1px solid currentColor; border-radius: 99px; padding: 1px 10px; color: var(--soft); }
.state.finished { color: var(--s2); }
.state.stopped, .state.failed { color: var(--s1); }
.reason, .notes { border-left: 4px solid var(--s1); background: var(--fill); padding: 8px 12px; border-radius: 0 6px 6px 0; overflow-wrap: anywhere; }
.notes { font-size: 13px; margin-top: 12px; }
.notes ul { margin: 0; padding-left: 20px; }
.facts { display: flex; flex-wrap: wrap; gap: 6px 28px; margin: 0; }
.facts div { min-width: 0; }
.facts dt { color: var(--soft); font-size: 12px; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-top: 16px; padding: 8px 0; border-block: 1px solid var(--rule); }
a { color: var(--s0); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 12px; margin-bottom: 16px; }
.tile, .chart, .tree, .recipe, .scroll { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; }
.tile { padding: 12px 16px; }
.tile p { margin: 0; }
.tile .name { color: var(--soft); font-size: 13px; }
.tile .value { font-size: 30px; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin-bottom: 12px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: 6px 12px; text-align: right; white-space: nowrap; border-top: 1px solid var(--rule); }
thead th, thead td { border-top: 0; color: var(--soft); font-weight: 500; font-size: 13px; }
tbody th, thead th:first-child { text-align: left; }
tbody th { font-weight: 600; }
.fit { width: fit-content; max-width: 100%; }
.fit tbody th { font-weight: 400; color: var(--soft); }
.fit td { padding-left: 28px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 14px; margin-bottom: 14px; }
.chart { margin: 0; padding: 10px 12px; min-width: 0; }
.chart > svg { display: block; width: 100%; height: auto; overflow: visible; }
figcaption { font-weight: 600; margin-bottom: 4px; }
figcaption .note { font-weight: 400; }
svg text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
svg path { fill: none; vector-effect: non-scaling-stroke; }
.grid { stroke: var(--rule); }
.axis { stroke: var(--soft); }
.stretch { stroke: var(--soft); stroke-dasharray: 2 3; }
.compare { stroke: var(--soft); stroke-dasharray: 6 4; }
.s0 { --of: var(--s0); } .s1 { --of: var(--s1); } .s2 { --of: var(--s2); } .s3 { --of: var(--s3); } .s4 { --of: var(--s4); }
.series .line { stroke: var(--of); stroke-width: 2; stroke-linejoin: round; }
.series .dashed { stroke-dasharray: 6 4; }
.series .whisker { stroke: var(--of); stroke-width: 1.5; }
.series .mark { fill: var(--of); stroke: var(--card); stroke-width: 1.5; }
.series.s4 .mark { fill: none; stroke: var(--of); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 4px 0 0; padding: 0; font-size: 13px; }
.legend li { display: flex; align-items: center; gap: 6px; }
form { display: flex; flex-wrap: wrap; gap: 8px 12px; align-items: center; margin: 12px 0; }
form[hidden] { display: none; }
select, input, button { font: inherit; font-size: 14px; color: inherit; background: var(--card); border: 1px solid var(--rule); border-radius: 6px; padding: 4px 8px; max-width: 100%; }
input { width: 160px; }
button { cursor: pointer; }
output { color: var(--soft); font-size: 13px; }
.tree { margin-bottom: 8px; }
.tree[hidden] { display: none; }
.tree > summary { padding: 10px 14px; overflow-wrap: anywhere; }
.tree > summary:hover, .verdicts > summary:hover { background: var(--fill); border-radius: 8px; }
.tree[open] > summary { border-bottom: 1px solid var(--rule); border-radius: 8px 8px 0 0; }
.id { display: inline-block; font-weight: 600; margin-right: 8px; }
.badge { font-size: 12px; border: 1px solid var(--rule); border-radius: 99px; padding: 1px 8px; margin-right: 6px; white-space: nowrap; }
.badge.right, .chosen .role { color: var(--s0); }
.badge.wrong, .rejected .role { color: var(--s1); }
.badge.right, .badge.wrong { border-color: currentColor; font-weight: 600; }
.problem { display: block; margin-top: 4px; white-space: pre-wrap; unicode-bidi: isolate; }
.steps { list-style: none; margin: 0; padding: 4px 14px; }
.step { padding: 10px 0; border-bottom: 1px solid var(--rule); }
.step.back { border-left: 3px dotted var(--soft); padding-left: 12px; }
.head { margin-bottom: 6px; font-size: 14px; color: var(--soft); }
.head b { color: var(--ink); margin-right: 6px; }
.candidates, .verdicts ul { list-style: none; margin: 0; padding: 0; }
.candidate { display: grid; grid-template-columns: 30px minmax(0, 1fr) auto; gap: 2px 10px; padding: 4px 8px; border-left: 4px solid transparent; }
.candidate.chosen { border-left-color: var(--s0); background: var(--fill); }
.candidate.rejected { border-left: 4px double var(--s1); background: var(--fill); }
.number, .meta, .p { color: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
.meta { display: grid; grid-template-columns: 76px 120px 76px 112px; gap: 0 8px; }
.wins { vertical-align: baseline; }
.wins .all { fill: var(--rule); }
.wins .won { fill: var(--soft); }
.verdicts { margin-top: 6px; font-size: 14px; }
.verdicts > summary { color: var(--soft); padding: 2px 6px; width: fit-content; }
.comparison { margin: 6px 0 6px 6px; padding: 4px 0 4px 10px; border-left: 2px solid var(--rule); }
.comparison > p { margin: 0; }
.comparison.flip { border-left: 2px dashed var(--s1); }
.orders { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 360px), 1fr)); gap: 0 16px; font-size: 13px; }
.order { margin: 0; color: var(--soft); }
.order b { color: var(--ink); }
.order pre { padding: 6px 10px; margin: 4px 0; background: var(--fill); border-radius: 6px; color: var(--ink); }
.answer { padding: 10px 14px; }
.answer pre { padding: 8px 10px; background: var(--fill); border-radius: 6px; margin-bottom: 8px; }
.recipe { padding: 10px 14px; }
.recipe pre { margin-top: 8px; }
@media (max-width: 720px) {
  body { padding: 16px 12px 48px; }
  h1 { font-size: 23px; }
  .tiles { grid-template-columns: 1fr; }
  .candidate { grid-template-columns: 30px minmax(0, 1fr); }
  .meta { grid-column: 2; display: flex; flex-wrap: wrap; gap: 0 14px; }
  .meta > :empty { display: none; }
  .fit td { padding-left: 12px; }
}
`;
