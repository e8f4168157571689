"""The look of report.html: one style sheet, light and dark, for a wide screen, a narrow one and paper.

Colours are variables, each with a contrast of 4.5 or more on what it is written on (WCAG AA). A drawing says by shape,
too, what it says by colour.
"""

_LIGHT = """
--page: #ffffff; --panel: #f6f8fa; --text: #1b1f24; --muted: #57606a; --line: #d0d7de; --link: #0550ae;
--pass: #116329; --fail: #a40e26; --warn: #7d4e00; --inside: #e3f2e6; --zero: #8c959f; --none: #57606a;
--m1: #dbe9f9; --m2: #b6d4f3; --m3: #84b6e8; --m4: #4f92d6; --m5: #2870b8; --m6: #144f8c; --m7: #072e57;
--less1: #cfe3f7; --less2: #8fbce8; --less3: #3f86cc; --less4: #0b4a8a;
--more1: #fbdcd4; --more2: #f0a894; --more3: #d9603f; --more4: #992408;
"""
_DARK = """
--page: #0d1117; --panel: #161b22; --text: #e6edf3; --muted: #9ea7b3; --line: #3a424c; --link: #79c0ff;
--pass: #56d364; --fail: #ff9d96; --warn: #e3b341; --inside: #12301c; --zero: #8b949e; --none: #9ea7b3;
--m1: #1b3a5e; --m2: #1f4b7d; --m3: #245f9f; --m4: #2f77c0; --m5: #4d95df; --m6: #86bcf2; --m7: #d3e8fc;
--less1: #1b4468; --less2: #2a6aa6; --less3: #559fdf; --less4: #b3d8fc;
--more1: #5f2617; --more2: #9a3f24; --more3: #dd7050; --more4: #ffc2b0;
"""
_MAPS = "".join(f".m{i} {{ fill: var(--m{i}); }}\n" for i in range(1, 8)) + "".join(
    f".{side}{i} {{ fill: var(--{side}{i}); }}\n" for side in ("less", "more") for i in range(1, 5)
)

STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 92rem; padding: 1rem; color: var(--text);
  background: var(--page); overflow-wrap: anywhere; }}
h1 {{ font-size: 1.6rem; margin: .5rem 0; line-height: 1.25; }} h2 {{ font-size: 1.2rem; margin: 2.2rem 0 .6rem; }}
h3 {{ font-size: 1rem; margin: 1rem 0 .4rem; }} h4 {{ font-size: .95rem; margin: 0 0 .3rem; }}
a {{ color: var(--link); }} small {{ color: var(--muted); font-size: .8em; font-weight: 400; }}
:focus-visible {{ outline: 3px solid var(--link); outline-offset: 2px; }}
nav ul {{ list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .8rem 0; padding: 0; }}
p.note {{ max-width: 52rem; color: var(--muted); }} .hidden {{ position: absolute; width: 1px; height: 1px;
  overflow: hidden; clip-path: inset(50%); white-space: nowrap; }}
.scroll {{ overflow-x: auto; max-width: 100%; position: relative; background:
  linear-gradient(to right, var(--page) 30%, transparent) left / 2rem 100% no-repeat local,
  linear-gradient(to left, var(--page) 30%, transparent) right / 2rem 100% no-repeat local,
  linear-gradient(to right, var(--line), transparent) left / .7rem 100% no-repeat scroll,
  linear-gradient(to left, var(--line), transparent) right / .7rem 100% no-repeat scroll; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
.scroll table {{ white-space: nowrap; }}
th, td {{ padding: .3rem .55rem; text-align: right; border-bottom: 1px solid var(--line); }}
th {{ font-weight: 600; }} .scroll tr:first-child > th {{ border-bottom: 2px solid var(--text); }}
td.name, th.name {{ text-align: left; }} tr.advisory, tr.advisory th {{ color: var(--muted); }}
.verdict {{ font-weight: 700; }} .pass {{ color: var(--pass); }} .fail {{ color: var(--fail); }}
.inconclusive, .incomplete {{ color: var(--warn); }}
.cards {{ display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(34rem, 100%), 1fr)); }}
.card {{ border: 1px solid var(--line); border-left: .5rem solid; border-radius: .4rem; padding: .8rem 1rem;
  background: var(--panel); }}
.card > * {{ color: var(--text); margin: .3rem 0; }} .card h2 {{ font-size: 1.15rem; }} .card h2 span {{
  display: inline-block; margin-right: .6rem; letter-spacing: .03em; }}
.card .facts {{ color: var(--muted); }}
pre {{ background: var(--page); border: 1px solid var(--line); border-radius: .3rem; padding: .5rem .7rem; margin:
  .3rem 0;
  white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; font-size: .88em; }}
code {{ white-space: pre-wrap; overflow-wrap: anywhere; font-size: .88em; background: var(--panel); padding: .1rem
  .3rem; }}
pre code {{ background: none; padding: 0; font-size: 1em; }} code span {{ display: inline-block; max-width: 100%;
  word-break: break-all; }}
summary {{ cursor: pointer; margin: .6rem 0; }} summary h2, summary h3 {{ display: inline; }}
ol.apart {{ list-style: none; padding: 0; }} ol.apart li {{ border-top: 1px solid var(--line); padding: .6rem 0; }}
.texts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(16rem, 100%), 1fr)); gap: .4rem .8rem; }}
.texts code {{ display: block; padding: .3rem .5rem; }} mark {{ background: var(--line); color: inherit; }}
ol.lost li {{ margin: .8rem 0; max-width: 60rem; }} ol.lost small {{ display: block; }}
.matrix {{ font-size: .86rem; }} .matrix th, .matrix td {{ padding: .3rem .4rem; }}
.matrix th:first-child {{ position: sticky; left: 0; background: var(--page); white-space: normal; min-width: 9rem;
  max-width: 14rem; }}
.matrix td a {{ text-decoration: none; color: inherit; }} .matrix td a:hover {{ text-decoration: underline; }}
.panels {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(25rem, 100%), 1fr));
  gap: .8rem; margin-top: .8rem; }}
.panel {{ position: relative; border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .7rem;
  break-inside: avoid; }}
.panel:target {{ border-color: var(--link); box-shadow: 0 0 0 2px var(--link); }}
.panel table {{ width: 100%; table-layout: fixed; font-size: .86rem; line-height: 1.25; }}
.panel th, .panel td {{ padding: .15rem .25rem; border: 0; }} .panel th {{ text-align: left; font-weight: 400; }}
.panel col.cell {{ width: 27%; }} .panel col.drawn {{ width: 40%; }} .panel td:nth-child(2) {{ padding: 0; }}
svg {{ display: block; width: 100%; height: auto; }} svg text {{ fill: var(--text); font: 10px system-ui, sans-serif; }}
.inside {{ fill: var(--inside); }} .zero {{ stroke: var(--zero); }} .limit {{ stroke: var(--text); stroke-width: 1.6; }}
.bar {{ stroke: currentColor; stroke-width: 2; fill: none; }} .dot {{ fill: currentColor; stroke: currentColor;
  stroke-width: 1.8; }}
.shown .dot, .weak .dot {{ fill: var(--page); }} .weak .bar {{ stroke-dasharray: 3 3; }} .arrow {{ fill:
  currentColor; }}
.shown {{ color: var(--none); }} .weak {{ color: var(--none); }}
.key {{ display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; padding: 0; list-style: none; color: var(--muted); }}
.key li {{ display: flex; align-items: center; gap: .4rem; }} .key svg {{ width: 8rem; flex: none; }}
td.drawn {{ min-width: 12rem; }} .size {{ fill: var(--m4); }} .size-base {{ fill: none; stroke: var(--zero); }}
.maps {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); gap: .8rem; }}
figure {{ margin: 0; break-inside: avoid; }} figcaption {{ font-size: .88rem; color: var(--muted); }}
@media (min-width: 62rem) {{ .maps {{ grid-template-columns: repeat(3, 1fr); }}
  .maps .candidate {{ grid-column: 2; }} }}
.frame {{ fill: none; stroke: var(--line); }} .region {{ stroke: var(--text); stroke-dasharray: 4 3; fill: none; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .4rem 0; }} dt {{ color:
  var(--muted); }}
dd {{ margin: 0; }}
{_MAPS}
@media (max-width: 40rem) {{ body {{ padding: .6rem; }} dl {{ grid-template-columns: 1fr; }} dd {{ margin-bottom:
  .4rem; }}
  .panel {{ padding: .5rem .4rem; }} .panel table {{ font-size: .8rem; }} }}
@media print {{ :root {{ {_LIGHT} }} body {{ max-width: none; font-size: 10pt; }} nav {{ display: none; }}
  .scroll {{ overflow: visible; }} .scroll table {{ white-space: normal; font-size: 8pt; }}
  details::details-content {{ content-visibility: visible; block-size: auto; }}
  * {{ print-color-adjust: exact; }} }}
"""
