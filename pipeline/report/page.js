"use strict";

// Figures: draw each specification that lies in the page, with colours taken from the style sheet of the moment.
const dark = window.matchMedia("screen and (prefers-color-scheme: dark)");

function coloured(value, style) {
  if (typeof value === "string") {
    return value.startsWith("var(--") ? style.getPropertyValue(value.slice(4, -1)).trim() : value;
  }
  if (Array.isArray(value)) return value.map((item) => coloured(item, style));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, style)]));
}

// On paper a figure is as wide as the sheet leaves it: with a view box the style sheet can scale what was drawn.
function scalable(plot) {
  const { width, height } = plot._fullLayout;
  plot.style.setProperty("--ratio", `${width} / ${height}`);
  for (const svg of plot.querySelectorAll(".main-svg")) svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
}

function draw() {
  const style = getComputedStyle(document.documentElement);
  for (const plot of document.querySelectorAll(".plot")) {
    const { data, layout } = coloured(JSON.parse(plot.nextElementSibling.textContent), style);
    const first = !plot.classList.contains("drawn");
    Plotly.react(plot, data, layout, { displayModeBar: false, responsive: true });
    if (first) plot.on("plotly_afterplot", () => scalable(plot));
    plot.classList.add("drawn");
    scalable(plot);
  }
}

draw();
dark.addEventListener("change", draw);

// Sample answers: those with one outcome, or all, and of these the ones that hold what is searched for.
const buttons = document.querySelectorAll("button[data-filter]");
const search = document.querySelector("#search");
const samples = [...document.querySelectorAll("[data-outcome]")].map((element) => ({
  element,
  outcome: element.dataset.outcome,
  text: element.textContent.toLowerCase(),
}));

function filter() {
  const wanted = document.querySelector('button[data-filter][aria-pressed="true"]').dataset.filter;
  const words = search.value.trim().toLowerCase();
  let shown = 0;
  for (const { element, outcome, text } of samples) {
    element.hidden = !["all", outcome].includes(wanted) || !text.includes(words);
    shown += element.hidden ? 0 : 1;
  }
  document.querySelector("#shown").textContent = `${shown} shown`;
}

for (const button of buttons) {
  button.addEventListener("click", () => {
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    filter();
  });
}
if (search) search.addEventListener("input", filter);
