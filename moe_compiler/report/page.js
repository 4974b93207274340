"use strict";
// Figures are drawn when their tab is first shown: the page opens at once, whatever it holds.
const drawn = new Set();
const LENGTHS = Object.fromEntries(Object.entries(FIGURES).map(([name, made]) => [name, made.layout.meta || 0]));
const config = { responsive: true, displaylogo: false, scrollZoom: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };

function draw(section) {
  for (const box of section.querySelectorAll(".figure")) {
    const name = box.dataset.figure;
    if (drawn.has(name)) continue;
    drawn.add(name);
    Plotly.newPlot(box, FIGURES[name].data, FIGURES[name].layout, config);
    if (name === "timeline" || name === "measured") box.on("plotly_relayout", () => part(box));
  }
}

// Close by, bars have edges, so that one task is told from the next; from afar, edges would be all that is seen.
function part(box) {
  const [from, to] = box._fullLayout.xaxis.range;
  const most = Math.max(...box.calcdata.map((bars) => bars.length));
  const width = to - from < LENGTHS[box.dataset.figure] * Math.min(0.2, 60 / most) ? 1 : 0;
  if (box.data[0].marker.line.width !== width) Plotly.restyle(box, { "marker.line.width": width });
}

function show(name) {
  for (const section of document.querySelectorAll("section")) section.classList.toggle("shown", section.id === name);
  for (const tab of document.querySelectorAll("nav button")) tab.setAttribute("aria-selected", tab.dataset.tab === name);
  draw(document.getElementById(name));
}

// A task is shown by zooming to three of its lengths and marking it.
function showTask(row) {
  const [name, task, start, length] = row;
  show("timeline");
  const box = document.querySelector('[data-figure="timeline"]');
  const around = Math.max(length, 1e-6);
  Plotly.relayout(box, {
    "xaxis.range": [start - around, start + 2 * around],
    shapes: [{ type: "rect", xref: "x", yref: "paper", x0: start, x1: start + length, y0: 0, y1: 1,
               line: { width: 1, color: "#e53e3e" }, fillcolor: "rgba(229,62,62,0.08)" }],
    annotations: [{ x: start + length / 2, y: 1.02, yref: "paper", text: `task ${task}: ${name}`, showarrow: false }],
  });
}

function cell(row, text) {
  const made = document.createElement("td");
  made.textContent = text;
  row.append(made);
}

const MOST_FOUND = 200;

function search() {
  const words = document.getElementById("query").value.toLowerCase().split(/\s+/).filter(Boolean);
  const body = document.querySelector("#found tbody");
  body.replaceChildren();
  const matches = (text) => words.every((word) => text.toLowerCase().includes(word));
  const tasks = TASKS.filter((t) => matches(`task ${t[1]} ${t[0]}`));
  const operations = OPERATIONS.filter((o) => matches(o.slice(0, 4).join(" ")));
  for (const t of tasks.slice(0, MOST_FOUND)) {
    const row = body.insertRow();
    row.dataset.task = t[1];
    for (const text of [`task ${t[1]}`, t[0], `from ${t[2]} ms, ${t[3]} ms long`]) cell(row, text);
    row.addEventListener("click", () => showTask(t));
  }
  for (const o of operations.slice(0, MOST_FOUND)) {
    const row = body.insertRow();
    for (const text of [`${o[0]} ${o[1]}`, o[3], o[2]]) cell(row, text);
    const phase = o[0].startsWith("@draft") ? "(draft" : "(verify";
    const task = o[4] && TASKS.find((t) => t[0].startsWith(o[4]) && t[0].includes(phase));
    if (!task) continue;
    row.dataset.find = o[4];
    row.addEventListener("click", () => showTask(task));
  }
  document.getElementById("count").textContent =
    `${tasks.length} tasks and ${operations.length} operations` +
    (tasks.length > MOST_FOUND || operations.length > MOST_FOUND ? `, the first ${MOST_FOUND} of each are shown` : "") +
    "; a click shows it in the timeline";
}

for (const tab of document.querySelectorAll("nav button")) tab.addEventListener("click", () => show(tab.dataset.tab));
document.getElementById("query").addEventListener("input", search);
search();
show("overview");
