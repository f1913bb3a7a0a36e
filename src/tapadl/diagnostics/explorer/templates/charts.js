// Curves over the layers, as SVG.

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// A round scale from 0 to a little above the largest value.
function niceTicks(largest) {
  if (!(largest > 0)) return [0, 1];
  const rough = largest / 4, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * unit).find((size) => size >= rough * 0.999);
  return Array.from({ length: Math.ceil(largest / step - 1e-9) + 1 }, (_, at) => at * step);
}

// lines: [{ values, style, dashed, name }]; each over its own layers, first on the left and last on the right
function lineChart({ lines, format, tickText, top, marked, label, onPick }) {
  const width = 460, height = 230, left = 46, right = 14, above = 10, below = 34;
  const largest = top ?? Math.max(...lines.flatMap((line) => line.values), 0);
  const ticks = niceTicks(largest), limit = ticks[ticks.length - 1];
  const across = (at, count) => left + ((width - left - right) * (at + 0.5)) / count;
  const up = (value) => height - below - ((height - above - below) * value) / limit;
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const count = Math.max(...lines.map((line) => line.values.length));
  const band = (width - left - right) / count;
  chart.append(svg("rect", { class: "marked", x: across(marked, count) - Math.min(band, 30) / 2, y: above, width: Math.min(band, 30), height: height - above - below }));
  for (const tick of ticks) {
    chart.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: up(tick), y2: up(tick) }));
    chart.append(svg("text", { x: left - 7, y: up(tick) + 4, "text-anchor": "end" }, tickText(tick)));
  }
  const every = Math.ceil(count / 12);
  for (let at = 0; at < count; at += every) {
    chart.append(svg("text", { x: across(at, count), y: height - below + 17, "text-anchor": "middle" }, String(at + 1)));
  }
  chart.append(svg("text", { x: (left + width - right) / 2, y: height - 2, "text-anchor": "middle" }, "layer"));
  for (const line of lines) {
    const points = line.values.map((value, at) => [across(at, line.values.length), up(Math.min(value, limit))]);
    const kind = line.dashed ? "dashed" : "";
    const group = svg("g", { class: `series ${line.style} ${kind}` });
    group.append(svg("polyline", { class: "line", points: points.map((point) => point.join(",")).join(" ") }));
    points.forEach(([x, y], at) => {
      group.append(svg("circle", { class: "dot", cx: x, cy: y, r: 3.6 }, svg("title", {}, `${line.name}, layer ${at + 1}: ${format(line.values[at])}`)));
    });
    chart.append(group);
  }
  chart.addEventListener("click", (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * width;
    onPick(Math.max(0, Math.min(count - 1, Math.floor((x - left) / band))));
  });
  return chart;
}
