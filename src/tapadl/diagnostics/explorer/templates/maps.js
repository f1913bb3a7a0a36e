// From a choice to a map over the picture: values of prefix tokens and of patches, row by row.

// The maps of a head where they are kept, those of the mean otherwise.
function headMaps(found, head) {
  if (head !== "mean" && found.heads && head < found.heads.length) return { maps: found.heads[head], ofHead: true };
  return { maps: found.mean[0], ofHead: false };
}

// Among the kept queries the one that is nearest to what was chosen; the token itself or a neighbour.
function nearestQuery(layer, queries, token) {
  if (layer.classAttention) return { query: 0, exact: token.prefix === 0 };
  const [rows, cols] = layer.grid;
  if (token.prefix !== undefined && token.prefix < layer.queryPrefix) return { query: token.prefix, exact: true };
  const wanted = patchAt(layer, token);
  let best = null;
  for (const query of queries) {
    if (query < layer.queryPrefix) continue;
    const place = query - layer.queryPrefix;
    const row = Math.floor(place / cols), col = place % cols;
    const distance = (row - wanted.row) ** 2 + (col - wanted.col) ** 2;
    if (!best || distance < best.distance) best = { query, row, col, distance };
  }
  if (!best) return queries.length ? { query: queries[0], exact: false } : null;
  return { query: best.query, row: best.row, col: best.col, exact: best.distance === 0 && token.prefix === undefined };
}

function patchAt(layer, token) {
  const [rows, cols] = layer.grid;
  const across = token.prefix === undefined ? token.across : 0.5, down = token.prefix === undefined ? token.down : 0.5;
  return { row: Math.min(rows - 1, Math.floor(down * rows)), col: Math.min(cols - 1, Math.floor(across * cols)) };
}

function homeInWindows(table) {
  const home = new Map();
  table.forEach((window, number) => window.forEach((place, at) => place >= 0 && home.set(place, [number, at])));
  return home;
}

// What a query attends to: prefix tokens and patches; NaN outside of its window.
function attendedFrom(data, model, layer, maps, query) {
  const place = maps.queries.indexOf(query);
  if (place < 0) throw new Error(`the page holds no attention of token ${query}`);
  const row = readRow(data, maps.rows + place * (2 + layer.keys), layer.keys);
  if (layer.window === null) return row;
  const table = model.windows[layer.window];
  const [number] = (layer.home ||= homeInWindows(table)).get(query);
  const values = new Float32Array(layer.keyGrid[0] * layer.keyGrid[1]).fill(NaN);
  table[number].forEach((place, at) => { if (place >= 0) values[place] = row[at]; });
  return values;
}

function receivedBy(data, layer, maps) {
  return readRow(data, maps.received, layer.prefix + layer.keyGrid[0] * layer.keyGrid[1]);
}

function dilationOf(data, layer, at) {
  const count = layer.grid[0] * layer.grid[1];
  return Float32Array.from(data.body.subarray(at, at + count), (value) => (value / 255) * (layer.branches - 1));
}

// Colours: cut out of viridis, in order of lightness; and from blue over nothing to orange.
const VIRIDIS = [
  [68, 1, 84], [72, 36, 117], [65, 68, 135], [53, 95, 141], [42, 120, 142], [33, 145, 140],
  [34, 168, 132], [68, 191, 112], [122, 209, 81], [189, 223, 38], [253, 231, 37],
];
const LOST = [35, 110, 200], GAINED = [225, 100, 0];

function heatColour(share) {
  const at = Math.max(0, Math.min(1, share)) * (VIRIDIS.length - 1), low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[low].map((value, channel) => value + (VIRIDIS[low + 1][channel] - value) * (at - low));
}

// values over (rows, cols), in multiples of the largest, onto a canvas of that many pixels
function paint(canvas, [rows, cols], values, largest, { change = false } = {}) {
  canvas.width = cols;
  canvas.height = rows;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const image = context.createImageData(cols, rows);
  for (let place = 0; place < rows * cols; place++) {
    const value = largest > 0 ? values[place] / largest : 0;
    if (Number.isNaN(value)) continue;
    const colour = change ? (value < 0 ? LOST : GAINED) : heatColour(value);
    image.data.set(colour, 4 * place);
    image.data[4 * place + 3] = change ? 255 * Math.min(1, Math.abs(value)) ** 0.7 : 255;
  }
  context.putImageData(image, 0, 0);
}

function rampOf({ change = false } = {}) {
  const stops = change
    ? [`rgb(${LOST})`, "transparent", `rgb(${GAINED})`]
    : VIRIDIS.map((colour) => `rgb(${colour})`);
  return `linear-gradient(90deg, ${stops.join(", ")})`;
}
