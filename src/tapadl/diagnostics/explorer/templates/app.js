// The page itself: one state, controls that change it, and one function that shows it.

const by = (id) => document.getElementById(id);
const percent = (value) => `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)} %`;
const times = (value) => `${value < 9.95 ? value.toFixed(1) : value.toFixed(0)} ×`;
const plain = (value) => (Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(3))));

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element && key !== "role") element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

// a name that a line may break behind an underscore, as in vit_tiny_patch16_224
const breakable = (name) => name.split(/(?<=_)/).flatMap((part) => [part, document.createElement("wbr")]);

const VIEWS = [
  ["attended", "What the chosen token attends to"],
  ["received", "What every token receives"],
  ["reach", "How far TAP reaches"],
];
const MEASURES = [
  { name: "top_share", title: "Over-focus: attention that the top 5 % of tokens receive", short: "share of the top 5 %", format: percent, tick: (value) => `${plain(100 * value)} %` },
  { name: "effective_keys", title: "Spread: effective number of tokens that receive attention", short: "effective tokens", format: plain, tick: plain },
  { name: "overlap", title: "Overlap of the rows, the value of ADL", short: "overlap of rows (ADL)", format: plain, tick: plain },
];
const STYLES = ["first", "second"];

function start(data) {
  const { header } = data;
  const models = header.models, index = indexMaps(data);
  const numLayers = Math.max(...models.map((model) => model.layers.length));
  const numHeads = Math.max(...models.flatMap((model) => model.layers.map((layer) => layer.heads)));
  const numPrefix = Math.max(...models.flatMap((model) => model.layers.map((layer) => Math.max(layer.queryPrefix, layer.prefix))));
  const hasTap = models.some((model) => model.hasTap);
  const middle = header.severities[Math.ceil((header.severities.length - 1) / 2)];
  const state = {
    picture: 0, corruption: header.corruptions[0], severity: middle, layer: numLayers - 1, head: "mean",
    view: "attended", token: { across: 0.5, down: 0.5 }, measure: 0,
  };
  const urls = new Map();

  function pictureUrl([begin, length]) {
    if (!urls.has(begin)) {
      const content = data.body.subarray(begin, begin + length);
      urls.set(begin, URL.createObjectURL(new Blob([content], { type: "image/webp" })));
    }
    return urls.get(begin);
  }

  const layerOf = (model) => {
    const count = model.layers.length;
    return numLayers === 1 ? 0 : Math.round((state.layer * (count - 1)) / (numLayers - 1));
  };
  const condition = () => conditionAt(header, state.corruption, state.severity);
  const conditionName = () => (state.severity ? `${corruptionLabel(state.corruption)}, severity ${state.severity}` : "Nothing done to it");
  const hasClassToken = models.every((model) => model.classToken || model.layers.every((layer) => !layer.prefix && !layer.queryPrefix));
  const tokenName = (prefix) => (prefix === 0 && hasClassToken ? "Class token" : `Prefix token ${prefix + 1}`);
  const placeName = (row, col) => `row ${row + 1}, column ${col + 1}`;

  function set(changes) {
    Object.assign(state, changes);
    show();
  }

  // ---- controls

  function radios(box, name, options, picked, onPick) {
    box.replaceChildren(...options.map(([value, ...content]) => {
      const input = make("input", { type: "radio", name, value: String(value), checked: value === picked });
      input.addEventListener("change", () => onPick(value));
      return make("label", {}, input, ...content);
    }));
  }

  function check(name, value) {
    for (const input of document.querySelectorAll(`input[name="${name}"]`)) input.checked = input.value === String(value);
  }

  function buildControls() {
    radios(by("pictures"), "picture", header.pictures.map((name, at) => [
      at, make("img", { src: pictureUrl(models[0].pictures[at][0]), alt: "" }), make("span", {}, name),
    ]), state.picture, (picture) => set({ picture }));
    radios(by("corruptions"), "corruption", header.corruptions.map((name) => [name, make("span", {}, corruptionLabel(name))]),
      state.corruption, (corruption) => set({ corruption, severity: state.severity || middle }));
    const views = VIEWS.filter(([name]) => name !== "reach" || hasTap);
    radios(by("views"), "view", views.map(([name, text]) => [name, make("span", {}, text)]), state.view, (view) => set({ view }));
    by("no-tap").hidden = hasTap;
    const severity = by("severity");
    severity.addEventListener("input", () => {
      const wanted = Number(severity.value), found = header.severities;
      // towards where the slider was moved
      const next = wanted > state.severity ? found.find((one) => one >= wanted) : found.findLast((one) => one <= wanted);
      set({ severity: next ?? (wanted > state.severity ? found.at(-1) : found[0]) });
    });
    by("severity-marks").append(...[0, 1, 2, 3, 4, 5].map((one) =>
      make("span", { className: header.severities.includes(one) ? "" : "absent" }, String(one))));
    const layer = by("layer");
    layer.max = numLayers - 1;
    layer.addEventListener("input", () => set({ layer: Number(layer.value) }));
    by("layer-marks").append(make("span", {}, "first"), make("span", {}, "last"));
    const head = by("head");
    head.append(make("option", { value: "mean" }, "mean of all"));
    for (let at = 0; at < numHeads; at++) head.append(make("option", { value: at }, `head ${at + 1}`));
    head.addEventListener("change", () => set({ head: head.value === "mean" ? "mean" : Number(head.value) }));
    const strength = by("strength");
    const fade = () => document.documentElement.style.setProperty("--strength", strength.value / 100);
    strength.addEventListener("input", fade);
    fade();
    const tokens = by("tokens");
    for (let prefix = 0; prefix < numPrefix; prefix++) {
      const button = make("button", { type: "button", "data-prefix": prefix }, tokenName(prefix));
      button.addEventListener("click", () => set({ token: { prefix }, view: "attended" }));
      tokens.append(button);
    }
    tokens.append(make("span", { id: "patch", className: "chosen-patch" }));
    const measure = by("measure");
    MEASURES.forEach((one, at) => measure.append(make("option", { value: at }, one.short)));
    measure.addEventListener("change", () => set({ measure: Number(measure.value) }));
  }

  // ---- pictures with maps over them

  function buildPanels() {
    by("panels").replaceChildren(...models.map((model, number) => {
      const figures = ["clean", "corrupted", "change"].map((side) => {
        const photo = make("img", { className: "photo", alt: "" });
        photo.addEventListener("load", () => photo.classList.toggle("small", photo.naturalWidth <= 64));
        const stack = make("div", { className: "stack", tabIndex: 0, role: "slider", "aria-valuemin": 1 },
          photo, make("canvas", { className: side === "change" ? "heat change" : "heat" }),
          make("div", { className: "marker", hidden: true }));
        stack.addEventListener("click", (event) => pick(stack, event));
        stack.addEventListener("keydown", (event) => walk(model, event));
        stack.addEventListener("pointermove", (event) => readAt(number, side, stack, event));
        stack.addEventListener("pointerleave", () => showPanel(model, number));
        return make("figure", { "data-side": side }, make("div", { className: "answer" }), stack, make("figcaption", {}));
      });
      return make("article", { className: `card panel ${STYLES[number]}`, "data-model": number },
        make("header", {}, make("h2", {}, make("span", { className: "swatch" }), make("span", {}, ...breakable(model.name))), make("p", { className: "where" })),
        make("div", { className: "figures" }, ...figures), make("p", { className: "message", hidden: true }));
    }));
  }

  function pick(stack, event) {
    const box = stack.getBoundingClientRect();
    const inside = (value) => Math.max(0, Math.min(0.9999, value));
    set({
      token: { across: inside((event.clientX - box.left) / box.width), down: inside((event.clientY - box.top) / box.height) },
      view: "attended",
    });
  }

  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

  // to the next token that is kept in that direction
  function walk(model, event) {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    const layer = model.layers[layerOf(model)], [rows, cols] = layer.grid;
    const from = patchAt(layer, state.token);
    const queries = shownMaps(model, models.indexOf(model))?.changed.queries ?? [];
    const kept = new Set(queries.filter((query) => query >= layer.queryPrefix).map((query) => query - layer.queryPrefix));
    let row = from.row, col = from.col;
    const rowsKept = [...new Set([...kept].map((place) => Math.floor(place / cols)))].sort((a, b) => a - b);
    const colsKept = [...new Set([...kept].map((place) => place % cols))].sort((a, b) => a - b);
    const next = (list, now, by) => (by > 0 ? list.find((one) => one > now) : list.findLast((one) => one < now)) ?? now;
    if (step[0]) row = next(rowsKept, row, step[0]);
    if (step[1]) col = next(colsKept, col, step[1]);
    set({ token: { across: (col + 0.5) / cols, down: (row + 0.5) / rows }, view: "attended" });
  }

  // The maps on the clean and on the corrupted picture, of the chosen head where both keep it.
  function shownMaps(model, number) {
    const at = layerOf(model), ofPicture = index[number][state.picture];
    const found = ofPicture[condition()][at], clean = ofPicture[0][at];
    const wanted = headMaps(found, state.head);
    const useful = state.view !== "attended" || wanted.maps.queries.length > 0;
    const head = wanted.ofHead && useful ? state.head : "mean";
    return { clean: headMaps(clean, head).maps, changed: headMaps(found, head).maps, head, dilations: [clean.dilation, found.dilation] };
  }

  // What the two pictures of a model show, and what is to be said about it.
  function valuesOf(model, number) {
    const layer = model.layers[layerOf(model)], maps = shownMaps(model, number), said = [];
    if (state.view === "reach") {
      if (!model.hasTap) return { said: ["No TAP in this model."] };
      if (maps.dilations[0] === null) return { said: ["No TAP in this layer."] };
      const [clean, corrupted] = maps.dilations.map((at) => dilationOf(data, layer, at));
      return { clean, corrupted, grid: layer.grid, prefix: 0, unit: 1, said };
    }
    if (state.head !== "mean" && maps.head === "mean") {
      said.push(state.head >= layer.heads
        ? `This layer has ${layer.heads} ${layer.heads === 1 ? "head" : "heads"}; the mean is shown.`
        : "Single heads are not kept here; the mean is shown.");
    }
    const shared = { grid: layer.keyGrid, prefix: layer.prefix, unit: layer.keys, said };
    if (state.view === "received") {
      return { ...shared, clean: receivedBy(data, layer, maps.clean), corrupted: receivedBy(data, layer, maps.changed) };
    }
    const token = nearestQuery(layer, maps.changed.queries, state.token);
    if (!token) return { said: ["What patches attend to is not kept in this file; what every token receives is."] };
    if (layer.classAttention && !token.exact) said.push("In this layer the class token alone attends.");
    else if (state.token.prefix !== undefined && !token.exact) said.push("No such token in this layer; a patch is shown in its place.");
    else if (!token.exact) said.push("The nearest token that is kept is shown.");
    const [clean, corrupted] = [maps.clean, maps.changed].map((one) => attendedFrom(data, model, layer, one, token.query));
    return { ...shared, clean, corrupted, token, layer };
  }

  let current = [];

  function scales() {
    const shown = current.filter((one) => one.clean);
    const largest = (side) => Math.max(0, ...shown.map((one) => one.unit * one[side].subarray(one.prefix).reduce((most, value) => (value > most ? value : most), 0)));
    const moved = Math.max(0, ...shown.map((one) => one.unit * one.clean.reduce((most, value, at) => {
      const by = at < one.prefix ? 0 : Math.abs(one.corrupted[at] - value);
      return by > most ? by : most;
    }, 0)));
    const widest = Math.max(1, ...models.flatMap((model) => model.layers.map((layer) => layer.branches - 1)));
    return { heat: state.view === "reach" ? widest : Math.max(largest("clean"), largest("corrupted")), change: moved };
  }

  function showPanel(model, number) {
    const shown = current[number], panel = document.querySelector(`.panel[data-model="${number}"]`);
    const layer = model.layers[layerOf(model)], scale = scales();
    const head = shown.clean && state.view !== "reach" ? `, ${shownMaps(model, number).head === "mean" ? "mean of heads" : `head ${state.head + 1}`}` : "";
    panel.querySelector(".where").textContent = `layer ${layerOf(model) + 1} of ${model.layers.length}, ${layer.name}${head}`;
    const message = panel.querySelector(".message");
    message.textContent = shown.said.join(" ");
    message.hidden = !shown.said.length;
    panel.querySelector(".figures").hidden = state.view === "reach" && !shown.clean;
    const answers = model.answers[state.picture];
    for (const figure of panel.querySelectorAll("figure")) {
      const side = figure.dataset.side, stack = figure.querySelector(".stack"), photo = stack.querySelector("img");
      const at = side === "clean" ? 0 : condition();
      const url = pictureUrl(model.pictures[state.picture][at]);
      if (photo.src !== url) photo.src = url;
      const alone = !shown.clean;
      figure.hidden = side === "change" && alone;
      stack.querySelector(".heat").hidden = alone;
      figure.querySelector(".answer").replaceChildren(...answerOf(side, answers[at], answers[0]));
      const marker = stack.querySelector(".marker");
      marker.hidden = state.view !== "attended" || !shown.token || shown.token.row === undefined;
      if (!marker.hidden) {
        const [rows, cols] = shown.layer.grid;
        Object.assign(marker.style, {
          left: `${(100 * shown.token.col) / cols}%`, top: `${(100 * shown.token.row) / rows}%`,
          width: `${100 / cols}%`, height: `${100 / rows}%`,
        });
      }
      if (alone) stack.removeAttribute("role"); else stack.setAttribute("role", "slider");
      stack.tabIndex = alone ? -1 : 0;
      if (alone) { figure.querySelector("figcaption").textContent = ""; continue; }
      const values = sideValues(shown, side).subarray(shown.prefix).map((value) => value * shown.unit);
      paint(stack.querySelector("canvas"), shown.grid, values, side === "change" ? scale.change : scale.heat, { change: side === "change" });
      figure.querySelector("figcaption").textContent = captionOf(shown, side);
      describeStack(stack, model, side, shown);
    }
  }

  function sideValues(shown, side) {
    if (side !== "change") return shown[side];
    return shown.corrupted.map((value, at) => value - shown.clean[at]);
  }

  function amount(shown, value, side) {
    const sign = side === "change" ? (value < 0 ? "−" : "+") : "", size = Math.abs(value);
    if (state.view === "reach") return sign + size.toFixed(2);
    return side === "change" ? `${sign}${percent(size)}` : `${percent(size)}, ${times(size * shown.unit)} fair share`;
  }

  function captionOf(shown, side) {
    const values = sideValues(shown, side), cols = shown.grid[1];
    let most = -1;
    for (let at = shown.prefix; at < values.length; at++) {
      if (!Number.isNaN(values[at]) && (most < 0 || Math.abs(values[at]) > Math.abs(values[most]))) most = at;
    }
    const place = most - shown.prefix;
    const lead = { clean: "Most", corrupted: "Most", change: "Largest" }[side];
    let text = `${lead}: ${placeName(Math.floor(place / cols), place % cols)} (${amount(shown, values[most], side)})`;
    if (shown.prefix) {
      const share = values.subarray(0, shown.prefix).reduce((sum, value) => sum + value, 0);
      text += `; ${shown.prefix > 1 ? "prefix tokens" : hasClassToken ? "class token" : "prefix token"} ${side === "change" ? (share < 0 ? "−" : "+") : ""}${percent(Math.abs(share))}`;
    }
    return text;
  }

  function readAt(number, side, stack, event) {
    const shown = current[number];
    if (!shown.clean || event.pointerType === "touch") return;
    const box = stack.getBoundingClientRect(), [rows, cols] = shown.grid;
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows), col = Math.floor(((event.clientX - box.left) / box.width) * cols);
    if (row < 0 || col < 0 || row >= rows || col >= cols) return;
    const value = sideValues(shown, side)[shown.prefix + row * cols + col];
    const text = Number.isNaN(value) ? "outside of its window" : amount(shown, value, side);
    stack.parentElement.querySelector("figcaption").textContent = `Here: ${placeName(row, col)} (${text})`;
  }

  function describeStack(stack, model, side, shown) {
    const layer = model.layers[layerOf(model)], [rows, cols] = layer.grid, { row, col } = shown.token?.row === undefined ? patchAt(layer, state.token) : shown.token;
    stack.setAttribute("aria-label", `${model.name}, ${side === "change" ? "change" : `${side} picture`}: arrow keys choose a token`);
    stack.setAttribute("aria-valuemax", rows * cols);
    stack.setAttribute("aria-valuenow", row * cols + col + 1);
    stack.setAttribute("aria-valuetext", `${state.token.prefix !== undefined && shown.token?.row === undefined ? tokenName(state.token.prefix) : placeName(row, col)}. ${captionOf(shown, side)}`);
  }

  function answerOf(side, answers, clean) {
    if (side === "change") return [make("span", { className: "side" }, "Change"), make("span", { className: "others" }, "corrupted minus clean")];
    const [[name, share, output], ...others] = answers, differs = output !== clean[0][2];
    const title = make("span", { className: "side" }, side === "clean" ? "Clean" : conditionName());
    const first = make("b", {}, name), bar = make("span", { className: "track", "aria-hidden": "true" }, make("span", { className: "fill" }));
    bar.firstChild.style.width = `${100 * share}%`;
    const line = make("span", { className: differs ? "best other" : "best" }, differs ? "≠ " : "", first, ` ${percent(share)}`);
    return [title, line, bar, make("span", { className: "others" }, others.map(([other, part]) => `${other} ${percent(part)}`).join(", "))];
  }

  // ---- legends, curves, answers

  function showLegends() {
    const scale = scales(), reach = state.view === "reach", none = !current.some((one) => one.clean);
    const ramp = (id, title, low, centre, high, options) => {
      const bar = make("span", { className: "ramp", "aria-hidden": "true" });
      bar.style.background = rampOf(options);
      by(id).replaceChildren(make("b", {}, title), make("span", { className: "scale" }, make("span", {}, low), bar, make("span", {}, high)), make("span", { className: "centre" }, centre));
    };
    by("heat-legend").parentElement.hidden = none;
    const widest = plain(scale.heat);
    if (reach) ramp("heat-legend", "Mean distance", "0, itself", "", `${widest}, widest`);
    else ramp("heat-legend", "Attention", "0", "in fair shares", times(scale.heat));
    const most = reach ? scale.change.toFixed(2) : times(scale.change);
    ramp("change-legend", "Change", `−${most}`, scale.change ? "" : "nothing changed", `+${most}`, { change: true });
  }

  function showCurves() {
    const measure = MEASURES[state.measure], at = condition();
    const focus = [], stability = [];
    models.forEach((model, number) => {
      const clean = model.focus[state.picture][0], corrupted = model.focus[state.picture][at];
      const values = (layers) => layers.map((heads) => heads[state.head !== "mean" && state.head < heads.length - 1 ? state.head : heads.length - 1][state.measure]);
      focus.push({ values: values(clean), style: STYLES[number], dashed: false, name: `${model.name}, clean` });
      if (at) focus.push({ values: values(corrupted), style: STYLES[number], dashed: true, name: `${model.name}, corrupted` });
      stability.push({ values: model.stability[state.picture][at].map(([cosine]) => cosine), style: STYLES[number], dashed: true, name: model.name });
    });
    const ofHead = state.head === "mean" ? "mean of heads" : `head ${state.head + 1}`;
    by("focus-title").textContent = `${measure.title} (${ofHead})`;
    by("stability-title").textContent = at ? "Stability: likeness of clean and corrupted rows, cosine (mean of heads)" : "Stability: raise the severity to see what moves";
    const onPick = (layer) => set({ layer });
    by("focus-chart").replaceChildren(lineChart({ lines: focus, format: measure.format, tickText: measure.tick, marked: state.layer, label: `${measure.title}, by layer`, onPick }));
    by("stability-chart").replaceChildren(lineChart({ lines: stability, format: plain, tickText: plain, top: 1, marked: state.layer, label: "Cosine of clean and corrupted attention, by layer", onPick }));
    const entry = (style, dashed, text) => make("li", { className: style }, make("span", { className: dashed ? "dash" : "stroke" }), text);
    by("curve-legend").replaceChildren(...models.flatMap((model, number) => [
      entry(STYLES[number], false, `${model.name}, clean`),
      ...(at ? [entry(STYLES[number], true, `${model.name}, ${conditionName().toLowerCase().replace("jpeg", "JPEG")}`)] : []),
    ]));
    showNumbers(measure, at);
  }

  function showNumbers(measure, at) {
    const heads = ["Layer", ...models.flatMap((model) => [measure.short + ", clean", "corrupted", "cosine", "divergence"].map((text, one) => (one || models.length === 1 ? text : `${model.name}: ${text}`)))];
    const rows = Array.from({ length: numLayers }, (_, layer) => [String(layer + 1), ...models.flatMap((model) => {
      if (layer >= model.layers.length) return ["", "", "", ""];
      const value = (which) => measure.format(model.focus[state.picture][which][layer].at(-1)[state.measure]);
      return [value(0), value(at), ...model.stability[state.picture][at][layer].map((one) => one.toFixed(3))];
    })]);
    by("numbers").replaceChildren(make("table", {},
      make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)))),
      make("tbody", {}, ...rows.map(([first, ...others]) => make("tr", {}, make("th", { scope: "row" }, first), ...others.map((text) => make("td", {}, text)))))));
  }

  function showAnswers() {
    const steps = header.severities.filter((one) => one > 0);
    by("answers").replaceChildren(...models.map((model, number) => {
      const answers = model.answers[state.picture], clean = answers[0][0][2];
      const cell = (corruption, severity) => {
        const [name, share, output] = answers[conditionAt(header, corruption, severity)][0], other = output !== clean;
        const chosen = severity === state.severity && (!severity || corruption === state.corruption);
        const bar = make("span", { className: "track", "aria-hidden": "true" }, make("span", { className: "fill" }));
        bar.firstChild.style.width = `${100 * share}%`;
        const button = make("button", { type: "button", className: other ? "cell other" : "cell", "aria-pressed": String(chosen),
          "aria-label": `${severity ? `${corruptionLabel(corruption)}, severity ${severity}` : "Clean"}: ${name}, ${percent(share)}${other ? ", other than clean" : ""}` },
          make("span", { className: "name" }, other ? "≠ " : "", name), make("span", { className: "share" }, percent(share)), bar);
        button.addEventListener("click", () => {
          set({ severity, corruption: corruption || state.corruption });
          by("answers").querySelectorAll(".answer-table")[number].querySelector('[aria-pressed="true"]')?.focus();
        });
        return button;
      };
      const head = make("tr", {}, make("th", { scope: "col" }, "Severity"), ...steps.map((one) => make("th", { scope: "col" }, String(one))));
      const rows = header.corruptions.map((name) => make("tr", {}, make("th", { scope: "row" }, corruptionLabel(name)), ...steps.map((one) => make("td", {}, cell(name, one)))));
      return make("div", { className: `answer-table ${STYLES[number]}` },
        make("h3", {}, make("span", { className: "swatch" }), model.name),
        make("div", { className: "clean-answer" }, make("span", {}, "Clean"), cell("", 0)),
        make("div", { className: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))));
    }));
  }

  function showControls() {
    check("picture", state.picture);
    check("corruption", state.corruption);
    check("view", state.view);
    by("severity").value = state.severity;
    by("severity").setAttribute("aria-valuetext", conditionName());
    by("severity-value").textContent = state.severity ? String(state.severity) : "clean";
    by("layer").value = state.layer;
    by("layer").setAttribute("aria-valuetext", `layer ${state.layer + 1} of ${numLayers}`);
    by("layer-value").textContent = `${state.layer + 1} of ${numLayers}`;
    by("head").value = state.head;
    for (const button of by("tokens").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(state.token.prefix === Number(button.dataset.prefix)));
    }
    const shown = current.find((one) => one.token?.row !== undefined);
    by("patch").textContent = shown && state.token.prefix === undefined ? `Token at ${placeName(shown.token.row, shown.token.col)}` : "";
    by("tokens").classList.toggle("idle", state.view !== "attended");
  }

  function showStatus() {
    const what = VIEWS.find(([name]) => name === state.view)[1];
    by("status").replaceChildren(make("b", {}, what), ` · ${header.pictures[state.picture]} · ${conditionName()}`);
  }

  function show() {
    current = models.map(valuesOf);
    showControls();
    showStatus();
    models.forEach(showPanel);
    showLegends();
    showCurves();
    showAnswers();
  }

  function showContents() {
    const lines = [`${header.pictures.length} ${header.pictures.length === 1 ? "picture" : "pictures"}, clean and under ${header.conditions.length - 1} conditions (seed ${header.seed}).`];
    if (header.thinned.length) lines.push("To stay below the size that was allowed, attention was thinned out:", ...header.thinned);
    else lines.push("All attention of all heads, every token.");
    lines.push(`Values are stored in ${header.levels + 1} steps; layers with more than 16 rows or columns of tokens keep a coarser grid of tokens to choose from.`);
    for (const model of models) for (const reason of model.leftOut) lines.push(`Left out of ${model.name}: ${reason}.`);
    by("contents").append(...lines.map((line) => make("li", {}, line)));
  }

  buildControls();
  buildPanels();
  showContents();
  show();
  by("app").setAttribute("aria-busy", "false");
}

unpack(by("data").textContent).then(start).catch((error) => {
  by("problem").textContent = `The page could not be shown: ${error.message}.`;
  by("problem").hidden = false;
  throw error;
});
