// The data of the page: a header in JSON, and behind it pictures and maps in bytes.

const KINDS = ["mean_clean", "mean_corrupted", "heads_clean", "heads_corrupted"];

async function unpack(text) {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("this browser cannot unpack the data of the page; one of 2023 or newer can");
  }
  const letters = atob(text.trim()), packed = new Uint8Array(letters.length);
  for (let at = 0; at < letters.length; at++) packed[at] = letters.charCodeAt(at);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const content = new Uint8Array(await new Response(stream).arrayBuffer());
  const end = 4 + new DataView(content.buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(content.subarray(4, end)));
  return { header, body: content.subarray(end) };
}

// Where each map begins: by model, picture, condition and layer.
function indexMaps({ header }) {
  let at = header.bookLength;
  const take = (length) => (at += length) - length;
  return header.models.map((model) =>
    header.pictures.map(() =>
      header.conditions.map((condition) =>
        model.layers.map((layer) => {
          const found = { dilation: null };
          const places = layer.prefix + layer.keyGrid[0] * layer.keyGrid[1];
          for (const kind of KINDS) {
            const queries = layer.queries[kind];
            if (kind.endsWith("clean") !== !condition.severity || !queries) continue;
            const heads = kind.startsWith("mean") ? 1 : layer.heads;
            const maps = [];
            for (let head = 0; head < heads; head++) {
              const received = take(2 + places);
              maps.push({ received, rows: take(queries.length * (2 + layer.keys)), queries });
            }
            found[kind.startsWith("mean") ? "mean" : "heads"] = maps;
          }
          if (layer.branches) found.dilation = take(layer.grid[0] * layer.grid[1]);
          return found;
        })
      )
    )
  );
}

// A row of attention: two bytes of scale, then a byte a value.
function readRow({ header, body }, at, length) {
  const largest = 2 ** (-(body[at] + 256 * body[at + 1]) / header.scaleUnit);
  const values = new Float32Array(length);
  for (let place = 0; place < length; place++) {
    values[place] = largest * (body[at + 2 + place] / header.levels) ** 2;
  }
  return values;
}

function conditionAt(header, corruption, severity) {
  if (!severity) return 0;
  return header.conditions.findIndex((one) => one.corruption === corruption && one.severity === severity);
}

const LABELS = { jpeg_compression: "JPEG compression" };
function corruptionLabel(name) {
  const text = name.replaceAll("_", " ");
  return LABELS[name] || text[0].toUpperCase() + text.slice(1);
}
