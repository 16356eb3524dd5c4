// The list with its filters and keys. Only the rows in sight are in the page.

const ROW_PX = 54;
const MARGIN_ROWS = 8;
const FLAGS = INDEX.flags;
const OUTCOMES = [
  ["", "any outcome", () => true],
  ["solved", "solved", (row) => has(row, "solved")],
  ["unsolved", "not solved", (row) => !has(row, "solved")],
  ["later", "solved by a retry", (row) => has(row, "solved") && INDEX.rows.used[row] > 1],
  ["repeats", "repeats an answer", (row) => has(row, "repeats")],
  ["truncated", "truncated", (row) => has(row, "truncated")],
  ["undecided", "undecided", (row) => has(row, "undecided")],
  ...INDEX.outcomes.map(([letter, name]) => [name, "has a " + name.replace("_", " "),
    (row) => INDEX.rows.outcomes[row].includes(letter)]),
];
const ORDERS = [
  ["newest", "newest step first", (a, b) => INDEX.rows.step[b] - INDEX.rows.step[a] || a - b],
  ["oldest", "oldest step first", (a, b) => INDEX.rows.step[a] - INDEX.rows.step[b] || a - b],
  ["low", "lowest reward first", (a, b) => INDEX.rows.reward[a] - INDEX.rows.reward[b] || a - b],
  ["high", "highest reward first", (a, b) => INDEX.rows.reward[b] - INDEX.rows.reward[a] || a - b],
  ["most", "most attempts first", (a, b) => INDEX.rows.used[b] - INDEX.rows.used[a] || a - b],
  ["tokens", "most tokens first", (a, b) => INDEX.rows.tokens[b] - INDEX.rows.tokens[a] || a - b],
];
const LETTERS = new Map(INDEX.outcomes);
const list = document.getElementById("list");
const field = (id) => document.getElementById(id);
// What is the same for all, as the step of an evaluation, is neither shown in the rows nor asked for by the filters.
const [manySteps, manyRollouts] = [INDEX.rows.step, INDEX.rows.rollout].map((column) => column.some((one) => one !== column[0]));
const manySplits = INDEX.rows.flags.some((flags) => (flags ^ INDEX.rows.flags[0]) & FLAGS.validate);
let shown = [];
let selected = null;   // a row, or null
let searchable = null; // one lower-case string for each distinct question, once one has been searched for
let unpacking = false;

function has(row, flag) { return (INDEX.rows.flags[row] & FLAGS[flag]) !== 0; }

/** A bound typed by the user; undefined where there is none, with what cannot be read marked as invalid. */
function bound(id) {
  const text = field(id).value.trim().replace("−", "-");
  const parsed = text === "" ? undefined : Number(text);
  field(id).setAttribute("aria-invalid", String(Number.isNaN(parsed)));
  return Number.isNaN(parsed) ? undefined : parsed;
}

function within(value, low, high) {
  return (low === undefined || value >= low) && (high === undefined || value <= high);
}

/** Unpack the questions, whole, and then filter. */
async function makeSearchable() {
  field("count").textContent = "reading the questions …";
  if (unpacking) return;
  unpacking = true;
  try {
    const parts = await Promise.all([...Array(INDEX.num_searched).keys()].map((part) => unpack("search-" + part)));
    searchable = parts.flat().map((text) => text.toLowerCase());
    filter();
  } catch (error) {
    field("count").textContent = "The questions cannot be searched: " + plain(error.message);
  }
  unpacking = false;
}

function filter() {
  const {rows} = INDEX;
  const query = field("query").value.trim().toLowerCase();
  if (query && !searchable) { makeSearchable(); return; }
  const asked = query ? searchable.map((text) => text.includes(query)) : null;
  const matches = OUTCOMES.find(([name]) => name === field("outcome").value)[2];
  const used = field("used").value, split = field("split").value;
  const rewards = [bound("reward-min"), bound("reward-max")], steps = [bound("step-min"), bound("step-max")];
  shown = [];
  for (let row = 0; row < rows.step.length; row += 1) {
    if (asked && !asked[rows.question[row]]) continue;
    if (!matches(row) || (used && rows.used[row] !== Number(used))) continue;
    if (split && has(row, "validate") !== (split === "validation")) continue;
    if (within(rows.reward[row], ...rewards) && within(rows.step[row], ...steps)) shown.push(row);
  }
  shown.sort(ORDERS.find(([name]) => name === field("order").value)[2]);
  field("count").textContent = shown.length === rows.step.length ? plural(shown.length, "episode")
    : `${number(shown.length)} of ${plural(rows.step.length, "episode")}`;
  field("rows").style.height = shown.length * ROW_PX + "px";
  list.scrollTop = 0;
  drawRows();
}

function drawRow(position) {
  const row = shown[position], {rows} = INDEX;
  const strip = element("span", {class: "strip"});
  for (const letter of rows.outcomes[row]) {
    const outcome = LETTERS.get(letter);
    strip.append(element("b", {class: outcome, title: outcome, "aria-label": outcome}, GLYPH[outcome]));
  }
  const said = [`${rows.used[row]} of ${plural(rows.max_attempts[row], "attempt")}`, "reward " + number(rows.reward[row], 3),
    manySteps && "step " + number(rows.step[row]), manyRollouts && "rollout " + rows.rollout[row],
    manySplits && has(row, "validate") && "validation", has(row, "truncated") && "truncated"];
  const facts = element("p", {class: "facts"}, strip, said.filter(Boolean).join(" · "));
  const question = INDEX.questions[rows.question[row]];
  const title = element("p", {dir: "auto"});
  appendText(title, question[0].slice(0, 200).replace(/\s+/g, " ") || question[1].slice(0, 200) || "(no question)");
  const node = element("div", {class: "row", id: "row-" + row, role: "option", "aria-selected": String(row === selected),
    "aria-posinset": position + 1, "aria-setsize": shown.length, dir: "ltr"},
    title, facts);
  node.style.top = position * ROW_PX + "px";
  node.addEventListener("click", () => { select(row); document.body.classList.add("reading"); });
  return node;
}

function drawRows() {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW_PX) - MARGIN_ROWS);
  const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_PX) + MARGIN_ROWS);
  const nodes = [];
  for (let position = first; position < last; position += 1) nodes.push(drawRow(position));
  field("rows").replaceChildren(...nodes);
  if (field("row-" + selected)) list.setAttribute("aria-activedescendant", "row-" + selected);
  else list.removeAttribute("aria-activedescendant");
}

async function select(row) {
  selected = row;
  const position = shown.indexOf(row);
  if (position >= 0) {
    const top = position * ROW_PX;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ROW_PX > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_PX - list.clientHeight;
  }
  drawRows();
  if (location.hash !== "#e" + row) location.replace("#e" + row);
  try {
    const episode = await loadEpisode(row);
    if (selected !== row) return;
    drawEpisode(episode);
  } catch (error) {
    if (selected === row) field("episode").replaceChildren(element("p", {class: "warn"}, "The episode cannot be shown: " + plain(error.message)));
  }
  field("episode").scrollTop = 0;
}

function move(distance) {
  if (!shown.length) return;
  const now = shown.indexOf(selected);
  const next = now < 0 ? 0 : Math.min(shown.length - 1, Math.max(0, now + distance));
  if (shown[next] !== selected) select(shown[next]);
}

function showList() {
  document.body.classList.remove("reading");
  drawRows();
  list.focus();
}

async function setExact(mode) {
  exact = mode;
  if (selected !== null) drawEpisode(await loadEpisode(selected));
}

const KEYS = {
  j: () => move(1), k: () => move(-1), x: () => setExact(!exact), Escape: showList,
  s: () => { field("summary").open = !field("summary").open; },
  "/": () => { showList(); field("query").focus(); },
};
const LIST_KEYS = {
  ArrowDown: () => move(1), ArrowUp: () => move(-1), PageDown: () => move(10), PageUp: () => move(-10),
  Home: () => move(-shown.length), End: () => move(shown.length),
  Enter: () => { document.body.classList.add("reading"); field("episode").focus(); },
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
  if (typing && event.key !== "Escape" && !(event.key === "Enter" && event.target.tagName === "INPUT")) return;
  const inList = event.target === list || event.target === document.body;
  const action = typing ? showList : KEYS[event.key] || (inList ? LIST_KEYS[event.key] : undefined);
  if (!action) return;
  event.preventDefault();
  action();
}

function options(id, entries) {
  field(id).replaceChildren(...entries.map(([value, label]) => element("option", {value}, label)));
}

function start() {
  startSummary();
  const counts = [...new Set(INDEX.rows.used)].sort((a, b) => a - b);
  options("outcome", OUTCOMES);
  options("order", manySteps ? ORDERS : [["newest", "by question"], ...ORDERS.slice(2)]);
  field("split").hidden = !manySplits;
  field("steps").hidden = !manySteps;
  options("used", [["", "any attempts used"], ...counts.map((count) => [count, plural(count, "attempt") + " used"])]);
  options("split", [["", "training, validation"], ["training", "training"], ["validation", "validation"]]);
  filter();
  // Two frames on, the list is on the screen; benchmarks/view_page.py reads the time.
  requestAnimationFrame(() => setTimeout(() => { document.documentElement.dataset.listDrawnMs = Math.round(performance.now()); }));
  field("filters").addEventListener("input", filter);
  field("filters").addEventListener("reset", () => setTimeout(filter));
  field("filters").addEventListener("submit", (event) => event.preventDefault());
  list.addEventListener("scroll", () => requestAnimationFrame(drawRows));
  window.addEventListener("resize", drawRows);
  field("summary").addEventListener("toggle", drawRows);
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", followHash);
  if (!followHash() && shown.length) select(shown[0]);
}

/** Select the episode that the address names; false where it names none. */
function followHash() {
  const row = /^#e(\d{1,9})$/.test(location.hash) ? Number(location.hash.slice(2)) : -1;
  if (row < 0 || row >= INDEX.rows.step.length) return false;
  if (row !== selected) { document.body.classList.add("reading"); select(row); }
  return true;
}

start();
