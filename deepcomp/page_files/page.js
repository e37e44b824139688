// What ties the page together: the data, the theme, the map, and what opens under a row.

function main() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const table = document.getElementById("tensors");
  const fileBytes = Number(table.tFoot.rows[table.tFoot.rows.length - 1].dataset.bytes);
  const rows = [...table.tBodies[0].querySelectorAll("tr.row")];
  makeTheme();
  makeSortable(table);
  makeFilter(table, data, fileBytes);
  rows.forEach((row) => makeOpener(row, data[row.dataset.row], table));
  const items = rows
    .map((row) => ({ name: nameOf(row), row, ...data[row.dataset.row] }))
    .filter((item) => item.parts);
  makeMap(items);
}

/** The system chooses between light and dark until the button does. */
function makeTheme() {
  const button = document.getElementById("theme");
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (prefersDark.matches ? "dark" : "light")) === "dark";
  const update = () => (button.textContent = isDark() ? "Light" : "Dark");
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    update();
  });
  prefersDark.addEventListener("change", update);
  button.hidden = false;
  update();
}

/** Make the name of a tensor a button that shows its pictures. */
function makeOpener(row, item, table) {
  if (!item.parts) return; // another name of a tensor
  const name = row.querySelector(".name");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "open";
  button.setAttribute("aria-expanded", "false");
  name.replaceWith(button);
  button.append(name);
  button.addEventListener("click", () => {
    const detail = detailOf(row);
    if (detail) detail.remove();
    else row.after(makeDetail(row, item, table));
    button.setAttribute("aria-expanded", String(!detail));
  });
}

/** Make what opens under a row: its numbers, the paper's columns among them, and its pictures. */
function makeDetail(row, item, table) {
  const numbers = document.createElement("dl");
  numbers.className = "numbers";
  const add = (what, value) => {
    const group = document.createElement("div");
    const [term, number] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = what;
    number.textContent = value;
    group.append(term, number);
    numbers.append(group);
  };
  [...table.tHead.rows[0].cells].forEach((head, i) => {
    const value = row.cells[i].textContent;
    if (i > 0 && head.dataset.full && value !== "–") add(head.dataset.full, value);
  });
  KINDS.forEach((kind, i) => item.parts[i] && add(`bytes: ${kind}`, integer(item.parts[i])));
  const figures = document.createElement("div");
  figures.className = "figures";
  if (item.dense) figures.append(drawHistogram(item.histogram));
  if (item.histogram.n_zeros) figures.append(drawZeros(item.zeros));
  figures.append(...item.codes.map(drawCode));
  const detail = document.createElement("tr");
  const cell = detail.insertCell();
  detail.className = "detail";
  cell.colSpan = table.tHead.rows[0].cells.length;
  cell.append(numbers, figures);
  return detail;
}

function makeMap(items) {
  const [section, element, note] = ["map-section", "map", "map-note"].map((id) => document.getElementById(id));
  if (!items.some((item) => sum(item.parts) > 0)) return;
  const buttons = [...section.querySelectorAll("[data-map]")];
  const notes = {
    after: "A tile for each tensor, as large as its bytes in the file, cut up by what they are. Choose one to see its pictures.",
    before: "A tile for each tensor, as large as it is when dense; coloured in its corner, what the file has for it.",
  };
  const open = (row) => {
    const button = row.querySelector(".open");
    if (row.hidden) {
      document.getElementById("filter").value = "";
      document.getElementById("layout").value = "";
      document.getElementById("filter").dispatchEvent(new Event("input"));
    }
    if (button.getAttribute("aria-expanded") === "false") button.click();
    button.focus({ preventScroll: true });
    row.scrollIntoView({ block: "start" });
  };
  const draw = () => {
    const mode = buttons.find((button) => button.getAttribute("aria-pressed") === "true").dataset.map;
    note.textContent = notes[mode];
    drawMap(element, items, mode, open);
  };
  buttons.forEach((button) =>
    button.addEventListener("click", () => {
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      draw();
    }),
  );
  section.hidden = false;
  new ResizeObserver(draw).observe(element);
  draw();
}

main();
