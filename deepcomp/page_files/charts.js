// The pictures of one tensor. Texts go in as textContent only, never as markup.

const WIDTH = 300;
const HEIGHT = 180;
const PLOT = { left: 42, right: WIDTH - 8, top: 8, bottom: HEIGHT - 30 };

function make(tag, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function write(svg, x, y, content, anchor = "middle") {
  const element = make("text", { x, y, "text-anchor": anchor });
  element.textContent = content;
  svg.append(element);
}

function figure(title, picture, caption) {
  const element = document.createElement("figure");
  const [head, foot] = [document.createElement("h3"), document.createElement("figcaption")];
  head.textContent = title;
  foot.textContent = caption;
  element.append(head, picture, foot);
  return element;
}

function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

function chart(label) {
  const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  svg.append(make("line", { class: "axis", x1: PLOT.left, x2: PLOT.right, y1: PLOT.bottom, y2: PLOT.bottom }));
  return svg;
}

function drawScale(svg, highest, ticks, format) {
  for (const tick of ticks) {
    const y = PLOT.bottom - (tick / highest) * (PLOT.bottom - PLOT.top);
    svg.append(make("line", { class: "axis", x1: PLOT.left, x2: PLOT.right, y1: y, y2: y }));
    write(svg, PLOT.left - 5, y + 4, format(tick), "end");
  }
}

function compact(n) {
  return n.toLocaleString("en-US", { notation: "compact", maximumFractionDigits: 1 });
}

/** Weights by value: a line for each entry of the codebook, or bins where there is none. */
function drawHistogram(found) {
  const { width, counts } = found;
  const values = width ? counts.map((_, i) => found.values[0] + i * width) : found.values;
  const notes = [];
  const total = sum(counts) + found.n_zeros + found.n_not_finite;
  notes.push(found.n_zeros ? `${percent(found.n_zeros / total)} are zeros, which are not drawn` : "no zeros");
  if (found.n_not_finite) notes.push(`${integer(found.n_not_finite)} are NaN or infinite`);
  notes.unshift(width ? `${counts.length} bins of one width` : `${counts.length} values in the codebook`);
  if (!counts.length) return figure("Weights", "", `None to draw: ${notes.slice(1).join("; ")}.`);
  // halves: the range of two finite numbers need not be finite
  const low = Math.min(values[0], width ? Infinity : 0) / 2;
  const high = Math.max(values.at(-1) + width, width ? -Infinity : 0) / 2;
  const at = (value) => PLOT.left + 4 + ((value / 2 - low) / (high - low || 1)) * (PLOT.right - PLOT.left - 8);
  const highest = Math.max(...counts);
  const up = (n) => PLOT.bottom - (n / highest) * (PLOT.bottom - PLOT.top);
  const svg = chart(`Histogram of the weights: ${notes.join("; ")}`);
  drawScale(svg, highest, highest % 2 ? [highest] : [highest / 2, highest], compact);
  values.forEach((value, i) => {
    if (width) {
      const [x, next] = [at(value), at(value + width)];
      svg.append(make("rect", { class: "bin", x, y: up(counts[i]), width: Math.max(next - x - 0.5, 0.5), height: PLOT.bottom - up(counts[i]) }));
    } else {
      const x = at(value);
      svg.append(make("line", { class: "stem", x1: x, x2: x, y1: PLOT.bottom, y2: up(counts[i]), "stroke-width": values.length > 90 ? 1.2 : 3 }));
      svg.append(make("line", { class: "rug", x1: x, x2: x, y1: PLOT.bottom + 3, y2: PLOT.bottom + 9 }));
    }
  });
  write(svg, at(2 * low), HEIGHT - 6, short(2 * low), "start");
  write(svg, at(2 * high), HEIGHT - 6, short(2 * high), "end");
  if (low < 0 && high > 0 && Math.min(-low, high) > (high - low) / 5) write(svg, at(0), HEIGHT - 6, "0");
  return figure(width ? "Weights" : "Weights and codebook", svg, `${notes.join("; ")}.`);
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

/** Density of the cells of a grid: the darker, the more entries are kept. */
function drawZeros(found) {
  const [rows, columns] = found.grid;
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  const [r, c] = found.shape;
  const size = found.cell === 1 ? "each cell an entry" : `cells of ${found.cell} × ${found.cell} entries`;
  const caption = `${integer(r)} × ${integer(c)}, ${size}; full colour: ${percent(found.highest)} kept, none: 0 %.`;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Pattern of zeros, ${caption}`);
  canvas.style.aspectRatio = Math.min(Math.max(columns / rows, 0.8), 14);
  if (rows * columns) {
    const image = new ImageData(columns, rows);
    const cells = atob(found.cells);
    for (let i = 0; i < cells.length; i++) image.data.set([74, 137, 220, cells.charCodeAt(i)], 4 * i);
    canvas.getContext("2d").putImageData(image, 0, 0);
  }
  return figure("Pattern of zeros", canvas, caption);
}

/** Code lengths as steps, beside the bits that each symbol carries. */
function drawCode(code) {
  const bits = `${code.mean_bits.toFixed(2)} bits a symbol, entropy ${code.entropy.toFixed(2)}`;
  const above = code.entropy > 0 ? `, ${percent(code.mean_bits / code.entropy - 1)} above` : "";
  const caption = `${integer(code.n_symbols)} symbols, ${code.lengths.length} different ones, from the most to the least frequent; ${bits}${above}. Line: code length; dashes: ideal.`;
  const n = code.lengths.length;
  const highest = 2 * Math.ceil(Math.max(...code.lengths, ...code.ideal, 1) / 2);
  const across = (i) => PLOT.left + (i / n) * (PLOT.right - PLOT.left);
  const up = (value) => PLOT.bottom - (value / highest) * (PLOT.bottom - PLOT.top);
  const svg = chart(`Code lengths of ${code.name}: ${bits}`);
  drawScale(svg, highest, [highest / 2, highest], String);
  for (const [kind, values] of [["coded", code.lengths], ["ideal", code.ideal]]) {
    const points = values.flatMap((value, i) => [`${across(i)},${up(value)}`, `${across(i + 1)},${up(value)}`]);
    svg.append(make("polyline", { class: kind, points: points.join(" ") }));
  }
  write(svg, PLOT.left, HEIGHT - 14, "bits", "end");
  write(svg, PLOT.left + 3, HEIGHT - 14, "1", "start");
  if (n > 1) write(svg, PLOT.right, HEIGHT - 14, String(n), "end");
  return figure(`Code of ${code.name}`, svg, caption);
}
