"use strict";

// Legend: a button shows or hides its method in every figure that tells methods apart.
const legend = document.querySelectorAll("button[data-group]");

function show() {
  const hidden = new Set();
  for (const button of legend) if (button.getAttribute("aria-pressed") !== "true") hidden.add(button.dataset.group);
  for (const plot of document.querySelectorAll(".shared .plot")) {
    Plotly.restyle(plot, { visible: plot.data.map((trace) => !hidden.has(trace.legendgroup)) });
  }
}

for (const button of legend) {
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    show();
  });
}
for (const button of document.querySelectorAll("button[data-every]")) {
  button.addEventListener("click", () => {
    for (const other of legend) other.setAttribute("aria-pressed", button.dataset.every);
    show();
  });
}
dark.addEventListener("change", show); // page.js has just drawn everything anew
