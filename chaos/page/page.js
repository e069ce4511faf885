// Sorts, filters and opens scenarios, and reads values off a timeline. The state is the address after "#";
// controls change it, and `show` makes the page look like it. Without this script everything is shown.
"use strict";

const table = document.getElementById("scenarios");
const heads = [...table.tHead.rows[0].cells];
const scenarios = [...table.tBodies];
const form = document.getElementById("filter");

const state = () => new URLSearchParams(location.hash.slice(1));

function change(edit) {
  const next = state();
  edit(next);
  history.replaceState(null, "", "#" + next);
  show();
}

function show() {
  const wanted = state();
  for (const name of ["q", "group", "verdict"]) {
    const control = form.elements[name];
    const value = wanted.get(name) ?? "";
    if (control.value !== value) control.value = value;
  }
  filter(wanted);
  sort(wanted.get("sort"), wanted.get("dir") === "desc");
  const open = new Set(wanted.getAll("open"));
  for (const scenario of scenarios) {
    const isOpen = open.has(scenario.dataset.key);
    scenario.classList.toggle("open", isOpen);
    scenario.querySelector("[aria-expanded]").setAttribute("aria-expanded", isOpen);
  }
}

function filter(wanted) {
  const words = (wanted.get("q") ?? "").toLowerCase().split(/\s+/);
  const same = (name, scenario) => [null, "", scenario.dataset[name]].includes(wanted.get(name));
  let shown = 0;
  for (const scenario of scenarios) {
    const text = [...scenario.querySelectorAll(".searched")].map((part) => part.textContent).join("\n").toLowerCase();
    scenario.hidden = !(same("group", scenario) && same("verdict", scenario) && words.every((word) => text.includes(word)));
    shown += !scenario.hidden;
  }
  const all = scenarios.length;
  document.getElementById("count").value = shown === all ? `${all} scenarios` : `${shown} of ${all} scenarios`;
}

function sort(key, descending) {
  const column = heads.findIndex((head) => head.dataset.key === key);
  const numeric = heads[column]?.classList.contains("number");
  const value = (scenario) => {
    const cell = scenario.rows[0].cells[column];
    return cell.dataset.value ?? cell.textContent;
  };
  const compare = (one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === "" || b === "") return (a === "") - (b === ""); // what has no figure comes last, either way
    return (descending ? -1 : 1) * (numeric ? a - b : a.localeCompare(b));
  };
  const order = column < 0 ? scenarios : [...scenarios].sort(compare);
  // Moving what is in its place already would take the focus from it.
  if (order.some((scenario, place) => scenario !== table.tBodies[place])) table.append(...order);
  heads.forEach((head, place) => {
    if (place === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

for (const head of heads) {
  head.firstElementChild.addEventListener("click", () =>
    change((next) => {
      const numbersFirst = head.classList.contains("number"); // of numbers the largest is what one looks for
      const now = head.getAttribute("aria-sort");
      next.set("sort", head.dataset.key);
      next.set("dir", now === "ascending" || (now === null && numbersFirst) ? "desc" : "asc");
    }),
  );
}

for (const scenario of scenarios) {
  const { key } = scenario.dataset;
  scenario.querySelector("[aria-expanded]").addEventListener("click", () =>
    change((next) => {
      const open = next.getAll("open");
      next.delete("open");
      for (const other of open) if (other !== key) next.append("open", other);
      if (!open.includes(key)) next.append("open", key);
    }),
  );
}

form.addEventListener("input", ({ target }) =>
  change((next) => (target.value ? next.set(target.name, target.value) : next.delete(target.name))),
);
form.addEventListener("submit", (event) => event.preventDefault());

for (const figure of document.querySelectorAll(".timeline")) {
  const samples = JSON.parse(figure.dataset.samples);
  const picture = figure.querySelector("svg");
  const slider = figure.querySelector("input");
  const cursor = figure.querySelector(".cursor");
  slider.max = samples.length - 1;

  const read = () => {
    const [x, time, ...values] = samples[slider.value];
    const [logged, delivered, spooled, inMemory] = values.map((value) => value?.toLocaleString("en") ?? "?");
    const text = `${time}: ${logged} logged, ${delivered} delivered, ${spooled} spooled, ${inMemory} in memory`;
    figure.querySelector("output").value = text;
    slider.setAttribute("aria-valuetext", text);
    cursor.setAttribute("transform", `translate(${x})`);
    figure.classList.add("read");
  };
  slider.addEventListener("input", read);
  picture.addEventListener("pointermove", (event) => {
    const { left, width } = picture.getBoundingClientRect();
    const x = ((event.clientX - left) / width) * picture.viewBox.baseVal.width;
    const far = samples.map((sample) => Math.abs(sample[0] - x));
    slider.value = far.indexOf(Math.min(...far));
    read();
  });
}

// A link, or a way back: our own changes make no such event.
function follow() {
  show();
  table.querySelector("tbody.open:not([hidden])")?.scrollIntoView();
}

addEventListener("hashchange", follow);
document.documentElement.classList.add("js");
follow();
