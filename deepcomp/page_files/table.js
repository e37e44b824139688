"use strict";
// The table of tensors: sorting by columns, filtering by name and layout.

/** Make the heads of the columns buttons that sort: a third click brings the order of the file. */
function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.hasAttribute("aria-sort")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    const orders = head.dataset.number === "1" ? ["descending", "ascending"] : ["ascending", "descending"];
    button.addEventListener("click", () => {
      const order = [...orders, "none"][orders.indexOf(head.getAttribute("aria-sort")) + 1];
      heads.forEach((other) => other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", order);
      sortRows(table.tBodies[0], column, order, head.dataset.number === "1");
    });
  });
}

function sortRows(body, column, order, isNumber) {
  const sign = order === "descending" ? -1 : 1;
  const key = (row) => row.cells[column].dataset.value;
  const byFile = (a, b) => a.dataset.row - b.dataset.row;
  const rows = [...body.querySelectorAll("tr.row")];
  rows.sort((a, b) => {
    if (order === "none") return byFile(a, b);
    const [x, y] = [key(a), key(b)];
    if (isNumber && (x === "" || y === "")) return (x === "") - (y === "") || byFile(a, b); // without a number: last
    return sign * (isNumber ? x - y : x.localeCompare(y, "en", { numeric: true })) || byFile(a, b);
  });
  for (const row of rows) {
    const detail = detailOf(row);
    body.append(row, ...(detail ? [detail] : []));
  }
}

function detailOf(row) {
  const next = row.nextElementSibling;
  return next && next.classList.contains("detail") ? next : null;
}

/** Show the rows that match both controls, and say what they are of the whole. */
function makeFilter(table, data, fileBytes) {
  const [name, layout, shown] = ["filter", "layout", "shown"].map((id) => document.getElementById(id));
  const rows = [...table.tBodies[0].querySelectorAll("tr.row")];
  const update = () => {
    const matches = nameTest(name.value.trim());
    let count = 0;
    let bytes = 0;
    for (const row of rows) {
      const isShown = matches(nameOf(row)) && (!layout.value || row.dataset.layout === layout.value);
      row.hidden = !isShown;
      const detail = detailOf(row);
      if (detail) detail.hidden = !isShown;
      if (!isShown) continue;
      count += 1;
      bytes += sum(data[row.dataset.row].parts ?? []);
    }
    const share = ((100 * bytes) / fileBytes).toFixed(1);
    shown.value = `${count} of ${rows.length} shown: ${integer(bytes)} bytes, ${share} % of the file`;
  };
  name.addEventListener("input", update);
  layout.addEventListener("change", update);
  document.getElementById("controls").hidden = false;
  update();
}

/** A part of a name, or with * and ? a pattern for all of it, as elsewhere in deepcomp. */
function nameTest(pattern) {
  if (!/[*?]/.test(pattern)) return (name) => name.toLowerCase().includes(pattern.toLowerCase());
  const source = pattern.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".");
  const regex = new RegExp(`^${source}$`, "is");
  return (name) => regex.test(name);
}

function nameOf(row) {
  return row.querySelector(".name").textContent;
}

function sum(numbers) {
  return numbers.reduce((total, n) => total + n, 0);
}

function integer(n) {
  return n.toLocaleString("en-US");
}
