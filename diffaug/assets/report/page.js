"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
/* So many rows are added at a time, as the reader comes near the end. */
const STEP = 30;
const WORST = 20;

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/* How bad a score is: far from the middle of its bounds, or low if it has none. */
function badness(row, score) {
  const value = row.scores[score.name];
  if (value === undefined || value === null) return -Infinity;
  return score.bounds ? Math.abs(value - (score.bounds[0] + score.bounds[1]) / 2) : -value;
}

const source = (number) => "data:image/webp;base64," + data.pictures[number];
data.rows.forEach((row, index) => { row.index = index; });

function option(select, value, text) {
  select.append(make("option", { value, textContent: text }));
}

function fill() {
  const classes = [...new Set(data.rows.flatMap((row) => row.classes.map(([name]) => name)))].sort();
  const prompts = [...new Set(data.rows.map((row) => row.prompt).filter(Boolean))].sort();
  const count = (mark) => data.rows.filter((row) => mark in row.marks).length;
  option(find("class"), "", "all");
  classes.forEach((name) => option(find("class"), "=" + name, name));
  option(find("prompt"), "", "all");
  prompts.forEach((name) => option(find("prompt"), "=" + name, name));
  option(find("mark"), "", "all images");
  data.scores.forEach((score) => option(find("mark"), "worst " + score.name, `worst ${WORST} by ${score.name}`));
  data.marks.forEach((mark) => option(find("mark"), mark, `${mark} (${count(mark)})`));
  if (data.marks.length > 1) {
    const marked = data.rows.filter((row) => Object.keys(row.marks).length).length;
    option(find("mark"), "any", `any mark (${marked})`);
  }
  option(find("order"), "", "class and name");
  data.scores.forEach((score) => {
    option(find("order"), "+" + score.name, `${score.name}, lowest first`);
    option(find("order"), "-" + score.name, `${score.name}, highest first`);
  });
  for (const id of ["class", "prompt", "mark", "order"]) {
    const needed = id === "class" || id === "prompt" ? 3 : 2;
    find(id + "-of").hidden = find(id).options.length < needed;
  }
}

function chosen() {
  const [name, prompt, mark, order] = ["class", "prompt", "mark", "order"].map((id) => find(id).value);
  let rows = data.rows.filter((row) =>
    (!name || row.classes.some(([own]) => "=" + own === name)) &&
    (!prompt || "=" + row.prompt === prompt));
  const worst = data.scores.find((score) => mark === "worst " + score.name);
  if (worst) {
    rows = rows.filter((row) => badness(row, worst) > -Infinity);
    rows = rows.sort((a, b) => badness(b, worst) - badness(a, worst) || a.index - b.index).slice(0, WORST);
  } else if (mark === "any") rows = rows.filter((row) => Object.keys(row.marks).length);
  else if (mark) rows = rows.filter((row) => mark in row.marks);
  if (order) {
    const sign = order[0] === "+" ? 1 : -1;
    const value = (row) => row.scores[order.slice(1)] ?? NaN;
    rows = rows.slice().sort((a, b) => {
      if (Number.isNaN(value(a)) || Number.isNaN(value(b))) return Number.isNaN(value(a)) - Number.isNaN(value(b));
      return sign * (value(a) - value(b)) || a.index - b.index;
    });
  }
  return rows;
}

function picture(row, column) {
  const held = row.pictures[column];
  const caption = make("figcaption", { textContent: column });
  if (typeof held !== "number") {
    const reason = held === undefined ? "no picture" : held;
    return make("figure", { className: "picture" }, caption, make("div", { className: "none", textContent: reason }));
  }
  const image = make("img", { src: source(held), alt: `${column} of ${row.name}`, decoding: "async" });
  const button = make("button", { type: "button", title: "Enlarge" }, image);
  button.addEventListener("click", () => enlarge(row, column, button));
  const under = row.under[column] ? make("div", { className: "under", textContent: row.under[column] }) : null;
  return make("figure", { className: "picture" }, caption, button, under);
}

function label(row) {
  const list = make("ul", { className: "label", "aria-label": "label" });
  row.classes.forEach(([name, share], place) => {
    const bar = make("span", { className: "bar" });
    bar.style.width = share + "%";
    list.append(make("li", { className: place ? "second" : "" },
      make("span", { className: "name", textContent: name, title: name }),
      make("span", { className: "share", textContent: (share / 100).toFixed(2) }),
      make("span", { className: "track", "aria-hidden": "true" }, bar)));
  });
  return row.classes.length ? list : null;
}

function facts(row) {
  const list = make("dl", { className: "facts" });
  const scores = Object.entries(row.scores).map(([name, value]) => [name, value === null ? "none" : value.toFixed(3)]);
  for (const [name, value] of [...scores, ...row.facts]) {
    list.append(make("dt", { textContent: name }), make("dd", { textContent: value }));
  }
  return list;
}

function marks(row) {
  const names = Object.keys(row.marks);
  if (!names.length) return [];
  const list = make("ul", { className: "marks", "aria-label": "marks" });
  names.forEach((name) => list.append(make("li", { className: name, textContent: name })));
  const why = names.map((name) => row.marks[name]).join("; ");
  return [list, make("p", { className: "why", textContent: why })];
}

function draw(row) {
  const pictures = make("div", { className: "pictures" }, ...data.columns.map((column) => picture(row, column)));
  /* All pictures of a row have the shape of its first one, within what a row can bear. */
  const first = data.columns.map((column) => row.pictures[column]).find((held) => typeof held === "number");
  pictures.style.setProperty("--ratio", Math.min(2, Math.max(0.6, data.ratios[first] ?? 1)));
  const what = make("div", { className: "what" },
    make("h2", { textContent: row.name }),
    row.prompt ? make("p", { className: "prompt", textContent: row.prompt }) : null,
    ...marks(row), label(row), facts(row));
  return make("article", { className: "row" }, pictures, what);
}

document.documentElement.style.setProperty("--columns", data.columns.length);
let rows = [];
let drawn = 0;

function more() {
  const end = Math.min(drawn + STEP, rows.length);
  find("rows").append(...rows.slice(drawn, end).map(draw));
  drawn = end;
}

function refresh() {
  rows = chosen();
  drawn = 0;
  find("rows").replaceChildren();
  find("shown").textContent = rows.length === data.rows.length ? `${rows.length} images` : `${rows.length} of ${data.rows.length} images`;
  if (!rows.length) find("rows").append(make("p", { className: "empty", textContent: "No image is like that. Reset the filters to see all." }));
  more();
  document.querySelectorAll("button.class").forEach((button) => {
    button.setAttribute("aria-pressed", String("=" + button.dataset.class === find("class").value));
  });
  ahead.unobserve(find("more"));
  ahead.observe(find("more"));
}

const ahead = new IntersectionObserver((entries) => {
  if (!entries.some((entry) => entry.isIntersecting) || drawn >= rows.length) return;
  more();
  ahead.unobserve(find("more")); /* It may still be near: then it is reported again. */
  ahead.observe(find("more"));
}, { rootMargin: "1500px" });

/* The enlarged image, and the next and the previous one of all rows that are chosen. */
const large = find("large");
let current = null;

function enlarge(row, column, from) {
  current = { row, column, from: from ?? current.from };
  const image = large.querySelector("img");
  image.src = source(row.pictures[column]);
  image.alt = `${column} of ${row.name}`;
  const words = [column, row.name, row.prompt, row.under[column]].filter(Boolean);
  large.querySelector("figcaption").textContent = words.join(" · ");
  if (!large.open) large.showModal();
}

function step(by) {
  const held = (row) => data.columns.filter((column) => typeof row.pictures[column] === "number");
  let place = rows.indexOf(current.row);
  let columns = held(current.row);
  let at = columns.indexOf(current.column) + by;
  while (at < 0 || at >= columns.length) {
    place += by;
    if (place < 0 || place >= rows.length) return;
    columns = held(rows[place]);
    at = by > 0 ? 0 : columns.length - 1;
  }
  enlarge(rows[place], columns[at]);
}

find("previous").addEventListener("click", () => step(-1));
find("next").addEventListener("click", () => step(1));
find("close").addEventListener("click", () => large.close());
large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
large.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
large.addEventListener("close", () => current.from.focus({ preventScroll: true }));

const form = document.querySelector(".tools");
form.addEventListener("change", refresh);
form.addEventListener("reset", () => setTimeout(refresh));
form.addEventListener("submit", (event) => event.preventDefault());
document.querySelectorAll("button.class").forEach((button) => button.addEventListener("click", () => {
  const value = "=" + button.dataset.class;
  find("class").value = find("class").value === value ? "" : value;
  refresh();
}));
/* On a small screen the pictures come first; a tap opens the panels. */
if (matchMedia("(max-width: 640px)").matches) {
  document.querySelectorAll("details.panel").forEach((panel) => { panel.open = false; });
}
fill();
refresh();
