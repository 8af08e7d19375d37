"""The page's looks: one sheet, inline, for light, dark, narrow and paper."""

from typing import Final

from tradesaga.consumers.audit.report.markup import Markup

SHEET: Final = Markup("""
:root{color-scheme:light dark;--bg:#faf9f7;--ink:#1d1c1a;--soft:#67635c;--line:#e3dfd8;--card:#fff;--good:#1d7a4c;
--back:#b06a08;--bad:#b3261e;--info:#2c5fb8;--calm:#8a8f98;--plus:#e8f4ec;--on:#fff;
--mono:ui-monospace,SFMono-Regular,"SF Mono",Menlo,"DejaVu Sans Mono",monospace}
@media (prefers-color-scheme:dark){:root{--bg:#14161a;--ink:#e9e7e3;--soft:#a09d97;--line:#2d3138;--card:#1b1e24;
--good:#5cc98f;--back:#efb050;--bad:#ff8078;--info:#82b1ff;--calm:#7d828b;--plus:#17291f;--on:#14161a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1040px;padding:32px 28px 48px;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
h1{font-size:27px;line-height:1.25;margin:10px 0 14px;font-weight:650;letter-spacing:-.01em;text-wrap:balance}
h2{font-size:13px;margin:36px 0 12px;font-weight:600;text-transform:uppercase;letter-spacing:.08em;color:var(--soft)}
.id{font:13px var(--mono);color:var(--soft);display:flex;flex-wrap:wrap;gap:8px 14px;align-items:center}
.badge{font:600 12px system-ui,sans-serif;padding:2px 10px;border-radius:99px;color:var(--on);background:var(--calm)}
.good .badge,.sure{background:var(--good)}.taken_back .badge{background:var(--back)}
.needs_a_person .badge{background:var(--bad)}.under_way .badge{background:var(--info)}
.summary{margin:0;padding:0;list-style:none;color:var(--soft)}.summary li{margin:2px 0}
.summary .first{color:var(--ink)}.warn{color:var(--bad)}
.panel{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px}
.timeline{display:block;width:100%;height:auto}.narrow{display:none}
.label{font-size:11px;fill:var(--soft)}.name{fill:var(--ink);font-family:var(--mono)}.on{fill:var(--on);font-weight:600}
.center{text-anchor:middle}.end{text-anchor:end}
.axis{font-variant-numeric:tabular-nums}.took{fill:var(--soft)}.gap-label{font-style:italic}
.tick{stroke:var(--line)}.base{stroke:var(--line)}.gap{fill:var(--line);opacity:.55}
.wait{stroke:var(--calm);stroke-width:1.6;stroke-dasharray:1.5 3.5;stroke-linecap:round}
.bar{fill:var(--good)}.bar.refused,.bar.failed{fill:var(--bad)}.bar.unknown{fill:var(--calm)}.bar.back{fill:var(--back)}
.bar.waiting{fill-opacity:.28;stroke:var(--good);stroke-dasharray:3 2}.bar.waiting.refused{stroke:var(--bad)}
.state{fill:var(--calm)}.state.running{fill:var(--info)}.state.completed{fill:var(--good)}
.state.compensating,.state.aborted{fill:var(--back)}.state.failed{fill:var(--bad)}
.dot{fill:var(--info)}.dot.late{fill:none;stroke:var(--calm);stroke-width:2}
.person{fill:var(--info)}.deadline-mark{fill:var(--bad)}.deadline{stroke:var(--bad);stroke-dasharray:4 3}
.seal{fill:var(--good)}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:12px 0 0;padding:0;list-style:none;font-size:12px;
color:var(--soft)}.legend i{display:inline-block;width:18px;height:9px;border-radius:2px;margin-right:6px}
.legend .l-done{background:var(--good)}.legend .l-failed{background:var(--bad)}.legend .l-back{background:var(--back)}
.legend .l-unknown{background:var(--calm)}
.legend .l-person{width:9px;background:var(--info);transform:rotate(45deg)}
.legend .l-deadline{height:0;border-top:2px dashed var(--bad);vertical-align:4px}
.legend .l-wait{height:0;border-top:2px dotted var(--calm);vertical-align:4px}
.legend .l-waiting{border:1px dashed var(--good);background:var(--plus)}
.legend .l-dot{width:9px;border-radius:9px;background:var(--info)}
.legend .l-late{width:9px;border-radius:9px;border:2px solid var(--calm)}
.legend .l-seal{width:0;height:0;border:6px solid transparent;border-top:0;border-bottom:10px solid var(--good);
border-radius:0}
.facts{list-style:none;margin:0}.facts.panel{padding-top:4px;padding-bottom:4px}
.fact{display:grid;grid-template-columns:168px 1fr;gap:2px 20px;padding:14px 0;border-top:1px solid var(--line)}
.fact:first-child{border-top:0}
.when{font:12px/1.6 var(--mono);color:var(--soft)}.when b{display:block;font-size:15px;font-weight:600;color:var(--ink)}
.when small{font-size:11px;font-weight:400;color:var(--soft)}
.says{font-weight:600;font-size:16px}.says::before{content:"";display:inline-block;width:9px;height:9px;
border-radius:9px;margin-right:9px;background:var(--calm);vertical-align:1px}
.t-good::before{background:var(--good)}.t-bad::before{background:var(--bad)}.t-back::before{background:var(--back)}
.t-info::before{background:var(--info)}
.kind{font:11px var(--mono);color:var(--soft);font-weight:400;margin-left:10px;white-space:nowrap}
.reason{margin:6px 0 0;padding:2px 0 2px 12px;border-left:3px solid var(--line);color:var(--ink)}
.then{margin:5px 0 0;color:var(--soft);font-size:14px}
.then b{font:12px var(--mono);color:var(--ink)}
.diff{font:12.5px/1.6 var(--mono);margin:8px 0 0;padding:7px 12px;border-radius:8px;background:var(--plus);
white-space:pre-wrap}.diff b{font-weight:400;color:var(--calm)}.lines{columns:2 290px;column-gap:24px}
.lines div{break-inside:avoid}.lines div::before{content:"+ ";color:var(--good);font-weight:700}
.diff .key{color:var(--soft)}
.payload{background:none;border:1px solid var(--line)}.payload .lines div::before{content:"  "}
.meta{font:11.5px/1.6 var(--mono);color:var(--soft);margin:8px 0 0}
.meta .ok{color:var(--good)}.meta .no{color:var(--bad);font-weight:700}
table{border-collapse:collapse;width:100%;font-size:13px}th{text-align:left;font-weight:600;color:var(--soft)}
td,th{padding:6px 14px 6px 0;border-top:1px solid var(--line);vertical-align:top}tr:first-child th{border-top:0}
td{font-variant-numeric:tabular-nums}.scroll{overflow-x:auto}
details summary{cursor:pointer;color:var(--soft)}
footer{margin-top:36px;padding-top:14px;border-top:1px solid var(--line);color:var(--soft);font-size:13px}
code{font-family:var(--mono);font-size:.92em}
@media (max-width:640px){body{padding:20px 16px 32px;font-size:14px}h1{font-size:21px}.panel{padding:14px 12px}
.wide{display:none}.narrow{display:block}.fact{grid-template-columns:1fr}.when b{display:inline;margin-right:8px}
.when span{margin-right:8px}.kind{display:block;margin-left:18px}}
@media print{:root{--bg:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#bbb}
body{padding:0;max-width:none;font-size:11pt}
.fact,.panel{break-inside:avoid}.facts.panel{break-inside:auto}
h2{break-after:avoid}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
details::details-content{content-visibility:visible;display:block}}
""")
