"use strict";

// Answers and verdicts: those with one outcome, of one benchmark, with one verdict, that hold what is searched for.
const samples = document.querySelector("#samples");

if (samples) {
  const cards = [...samples.querySelectorAll(".sample")];
  const buttons = [...samples.querySelectorAll("button[data-filter]")];
  const search = samples.querySelector("#search");
  const benchmark = samples.querySelector("#benchmark");
  const verdict = samples.querySelector("#verdict");
  const count = samples.querySelector("#shown");
  let texts = null; // what is searched in, a card each; made when it is first needed

  const textOf = (card) =>
    [...card.querySelectorAll(".question, .text, .rules, .origin")].map((part) => part.textContent).join("\n").toLowerCase();

  function filter() {
    const outcome = buttons.find((button) => button.getAttribute("aria-pressed") === "true").dataset.filter;
    const words = search.value.trim().toLowerCase();
    if (words) texts ??= cards.map(textOf);
    let shown = 0;
    cards.forEach((card, place) => {
      const { dataset } = card;
      const wanted =
        (outcome === "all" || dataset.outcome === outcome) &&
        (!benchmark?.value || dataset.benchmark === benchmark.value) &&
        (!verdict?.value || dataset.verdicts.split(" ").includes(verdict.value)) &&
        (!words || texts[place].includes(words));
      if (card.hidden === wanted) card.hidden = !wanted;
      shown += wanted;
    });
    count.textContent = `${shown.toLocaleString("en")} of ${cards.length.toLocaleString("en")} shown`;
  }

  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      filter();
    });
  }
  for (const field of [search, benchmark, verdict]) field?.addEventListener("input", filter);
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea, [contenteditable]");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    search.focus();
    search.select();
  });
  filter(); // a browser that comes back to the page may have kept what was chosen
}
