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
