"""The style of pages: light, dark, paper and phones, without fonts or scripts from elsewhere."""

# The series' colours have a contrast of 3 and more on the paper, light and dark.
INK, GRID, PAPER = "#1d2433", "#d5dae3", "#ffffff"
SERIES = ("#2563c9", "#c2621b", "#1b7f5c", "#8a3fb0", "#b0304f", "#6b6b10")
VALIDATION, TRAIN = SERIES[:2]
VARIABLES = {INK: "--ink", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--series{number}" for number, colour in enumerate(SERIES)
}
DARK = {INK: "#e6e9f0", GRID: "#3a4252", PAPER: "#151922"} | dict(
    zip(SERIES, ("#6ea3f5", "#f0985a", "#5cc8a0", "#c58ae6", "#f0849c", "#cfc05a"), strict=True)
)


def _declare(soft: str, panel: str, colours: dict[str, str]) -> str:
    values = {variable: colours.get(colour, colour) for colour, variable in VARIABLES.items()}
    values |= {"--soft": soft, "--panel": panel}
    return " ".join(f"{variable}: {colour};" for variable, colour in values.items())


STYLE = (
    f"""
:root {{ color-scheme: light dark; {_declare("#5b6577", "#f5f7fa", {})} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{
  {_declare("#9aa5b8", "#1c2230", DARK)} }} }}
"""
    + """
* { box-sizing: border-box; }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  max-width: 68rem; margin: 2rem auto 4rem; padding: 0 1rem; -webkit-text-size-adjust: 100%; }
h1 { margin: 0; overflow-wrap: anywhere; line-height: 1.2; }
h2 { margin: 0 0 .75rem; } h3 { margin: 1.5rem 0 .5rem; font-size: 1rem; }
section { border-top: 1px solid var(--grid); padding-top: 1.25rem; margin-top: 2.25rem; }
a { color: var(--series0); } p { max-width: 46rem; margin: .5rem 0; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin: 1rem 0; }
nav a { text-decoration: none; }
.note, figcaption { color: var(--soft); font-size: .9rem; }
figure { margin: 0; } figcaption { max-width: 46rem; }
svg { max-width: 100%; height: auto; } .pair svg { width: 100%; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr));
  gap: 1rem 2rem; align-items: start; margin: .75rem 0; } .pair > * { min-width: 0; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; }
dl div { background: var(--panel); border-radius: .5rem; padding: .6rem .9rem; display: flex;
  flex-direction: column; justify-content: space-between; }
dt { color: var(--soft); font-size: .9rem; }
dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .95rem; }
th, td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--grid); text-align: right;
  font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
.figures td { white-space: nowrap; }
.settings td, .settings th { text-align: left; overflow-wrap: anywhere; }
.settings td:first-child { white-space: nowrap; }
.settings td { vertical-align: top; min-width: 6rem; }
.tabs { display: flex; flex-wrap: wrap; gap: .4rem; position: relative; margin-top: .75rem; }
.tabs > input { position: absolute; opacity: 0; }
.tabs > label { order: -1; padding: .15rem .7rem; border: 1px solid var(--grid); cursor: pointer;
  border-radius: 1rem; font-size: .9rem; }
.tabs > input:checked + label { background: var(--series0); color: var(--paper); }
.tabs > input:focus-visible + label { outline: 2px solid var(--ink); outline-offset: 2px; }
.tabs > .panel { display: none; width: 100%; }
.tabs > input:checked + label + .panel { display: block; }
.confusion { border-collapse: separate; border-spacing: 2px; }
.confusion td, .confusion th { border: 0; padding: .1rem .4rem; vertical-align: middle; }
.confusion th.class { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  padding: .3rem .1rem; }
.confusion td.count { position: relative; min-width: 2.4rem; height: 2.2rem; padding: 0;
  text-align: center; border-radius: 3px; background: var(--panel); }
.confusion td.count::before { content: ""; position: absolute; inset: 0; border-radius: 3px;
  background: var(--series0); opacity: var(--share); }
.confusion td span { position: relative; } .confusion td.full { color: var(--paper); }
.confusion td.right { outline: 1px solid var(--soft); }
.clip { background: var(--panel); border-radius: .5rem; padding: .9rem 1rem; margin: 1rem 0;
  break-inside: avoid; }
.clip .pair { grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); margin: 0; }
.clip h3 { margin: 0 0 .5rem; overflow-wrap: anywhere; }
.timeline { min-width: 27rem; } .timeline img { display: block; width: 100%; border-radius: 3px; }
.timeline .spectrum { height: 4rem; margin-top: .5rem; image-rendering: pixelated; }
.timeline svg { display: block; width: 100%; height: 2.2rem; margin-top: .15rem; }
.timeline p { margin: .4rem 0 .1rem; } .scale { display: flex; justify-content: space-between; }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px;
  margin-right: .4rem; }
@media (max-width: 30rem) { body { margin-top: 1rem; } th, td { padding-right: .6rem; }
  table { font-size: .85rem; }
  dd { font-size: 1.25rem; } }
@media print { html { font-size: 11.5px; }
  body { font-size: 1rem; max-width: none; margin: 0; padding: 0; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  nav, .tabs > input:not(:checked) + label { display: none; }
  figure, .clip, .panel, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .wide { overflow: visible; } .timeline { min-width: 0; } table { font-size: .9rem; }
  th, td { padding-right: .5rem; } .pair { column-gap: 1.25rem; }
  .confusion td.count { min-width: 1.9rem; height: 1.9rem; } }
"""
)
