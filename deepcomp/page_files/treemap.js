// The map: a tile for each tensor, as large as its bytes, cut up by what they are.

const KINDS = ["labels", "gaps", "codebook", "exact", "raw", "overhead"];

/**
 * Lay areas out in a rectangle, each about as wide as high.
 * Bruls, Huizing, van Wijk, "Squarified treemaps", 2000. `areas` fall, and add up to width * height.
 */
function squarify(areas, x, y, width, height) {
  const tiles = [];
  let first = 0;
  while (first < areas.length) {
    const side = Math.min(width, height);
    let total = 0;
    let worst = Infinity;
    let end = first;
    while (end < areas.length) {
      const next = total + areas[end];
      const thickness = next / side;
      const ratio = Math.max((thickness * thickness) / areas[end], areas[first] / (thickness * thickness));
      if (ratio > worst) break;
      worst = ratio;
      total = next;
      end += 1;
    }
    const thickness = total / side;
    let along = 0;
    for (const area of areas.slice(first, end)) {
      const length = area / thickness;
      tiles.push(width >= height ? [x, y + along, thickness, length] : [x + along, y, length, thickness]);
      along += length;
    }
    if (width >= height) {
      x += thickness;
      width -= thickness;
    } else {
      y += thickness;
      height -= thickness;
    }
    first = end;
  }
  return tiles;
}

/** Draw the map into an element. `items` are {name, row, dense, parts}; `mode` is before or after. */
function drawMap(element, items, mode, open) {
  const { width, height } = element.getBoundingClientRect();
  const sizeOf = (item) => (mode === "after" ? sum(item.parts) : item.dense);
  const shown = items.filter((item) => sizeOf(item) > 0).sort((a, b) => sizeOf(b) - sizeOf(a));
  const total = sum(shown.map(sizeOf));
  const areas = shown.map((item) => (sizeOf(item) / total) * width * height);
  const label = `${mode === "after" ? "The file" : "The dense tensors"} by tensor; the table below has the numbers`;
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  squarify(areas, 0, 0, width, height).forEach((tile, i) => svg.append(drawTile(shown[i], tile, mode, open)));
  element.replaceChildren(svg);
}

function drawTile(item, [x, y, width, height], mode, open) {
  const tile = make("svg", { class: mode === "before" ? "plain" : "", x, y, width, height }); // cuts long names off
  const after = sum(item.parts);
  const title = make("title");
  const kinds = KINDS.map((kind, i) => (item.parts[i] ? `\n${kind} ${integer(item.parts[i])}` : "")).join("");
  title.textContent = `${item.name}\n${integer(item.dense)} bytes before, ${integer(after)} after${kinds}`;
  tile.append(title);
  if (mode === "before") {
    tile.append(make("rect", { class: "k-before", width, height }));
    const scale = Math.sqrt(Math.min(after / item.dense, 1)); // what is left of it, in its corner
    const [w, h] = [width * scale, height * scale];
    drawSlices(tile, item.parts, width - w, height - h, w, h);
  } else {
    drawSlices(tile, item.parts, 0, 0, width, height);
  }
  tile.append(make("rect", { class: "tile-edge", width, height }));
  const fits = Math.floor((width - 10) / 6.4);
  if (height > 18 && fits >= 7) {
    const name = make("text", { x: 5, y: 14 });
    name.textContent = item.name.length > fits ? `${item.name.slice(0, fits - 1)}…` : item.name;
    tile.append(name);
  }
  tile.addEventListener("click", () => open(item.row));
  return tile;
}

/** Cut a rectangle across its longer side, in proportion to the parts. */
function drawSlices(parent, parts, x, y, width, height) {
  const total = sum(parts);
  let done = 0;
  parts.forEach((part, i) => {
    if (!part) return;
    const [from, share] = [done / total, part / total];
    done += part;
    const place =
      width >= height
        ? { x: x + from * width, y, width: share * width, height }
        : { x, y: y + from * height, width, height: share * height };
    parent.append(make("rect", { class: `k-${KINDS[i]}`, ...place }));
  });
}
