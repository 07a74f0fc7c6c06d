"use strict";
const dataset = () => data.datasets.find(entry => entry.name === chosen.datasets);
const method = () => dataset().methods[chosen.methods];

function drawRoc(curves = {}) {
  const names = {
    source: "source normal clips", target: "target normal clips", both: "all normal clips",
  };
  const traces = Object.entries(names).filter(([key]) => curves[key]).map(([key, name], i) => ({
    x: curves[key][0], y: curves[key][1], name, mode: "lines", line: {color: colors[i]},
  }));
  if (curves.partial) traces.unshift({
    x: curves.partial[0], y: curves.partial[1], fill: "tozeroy", mode: "none",
    fillcolor: colors[2] + "55", name: "pAUC", hoverinfo: "skip",
  });
  draw("roc", traces, {
    xaxis: {title: {text: "false positive rate"}, range: [0, 1]},
    yaxis: {title: {text: "true positive rate"}, range: [0, 1.01]},
  });
}

// Source clips above, target clips below, on one axis of scores.
function drawScores(machine) {
  const all = Object.values(machine.scores).flat(), low = Math.min(...all), high = Math.max(...all);
  const bins = {start: low, end: high + 1e-9, size: (high - low || 1) / 30};
  const below = name => name.startsWith("target"), both = Object.keys(machine.scores).some(below);
  draw("scores", Object.entries(machine.scores).map(([name, x]) => ({
    type: "histogram", x, name, xbins: bins, opacity: 0.65,
    marker: {color: conditions[name.split(" ").pop()]},
    yaxis: below(name) ? "y2" : "y", visible: name === "held-out training" ? "legendonly" : true,
  })), {
    barmode: "overlay", xaxis: {title: {text: "score"}, anchor: both ? "y2" : "y"},
    yaxis: {title: {text: both ? "source" : "clips"}, domain: [both ? 0.54 : 0, 1]},
    yaxis2: {title: {text: "target"}, domain: [0, 0.46]},
    shapes: machine.threshold == null ? [] : [{
      type: "line", x0: machine.threshold, x1: machine.threshold,
      yref: "paper", y0: 0, y1: 1, line: {color: "#888", dash: "dash"},
    }],
  });
}

function lines(table = {}) {
  const {epoch, ...rest} = table;
  if (!epoch || !epoch.length) return [];
  return Object.entries(rest).map(([name, y]) => ({x: epoch, y, name, mode: "lines+markers"}));
}

function drawMap(machine) {
  const place = machine.map, clips = dataset().clips[chosen.machines];
  if (!place) return draw("map", []);
  const {names, codes} = byId("color").value === "class" ? place.class : clips[byId("color").value];
  const training = clips.condition.names.indexOf("training");
  draw("map", names.map((name, code) => {
    const rows = codes.flatMap((c, i) => c === code ? [i] : []);
    return {
      type: "scatter", mode: "markers", name,
      x: rows.map(i => place.x[i]), y: rows.map(i => place.y[i]),
      text: rows.map(i => clips.path[i].split("/").pop()), hovertemplate: "%{text}",
      marker: {
        size: 7, opacity: 0.75, color: colors[code % colors.length],
        symbol: rows.map(i => clips.condition.codes[i] === training ? "circle" : "diamond-open"),
      },
    };
  }), {
    showlegend: names.length <= 24, hovermode: "closest",
    xaxis: {title: {text: "training clips: dots; test clips: diamonds"}},
  });
}

// One bar a band: by how much its score is above (or below) its usual value.
function bars({names, usual}, scores) {
  const above = scores.map((score, i) => score - usual[i]), most = Math.max(...above.map(Math.abs));
  const order = names.map((_, i) => i).sort((a, b) => above[b] - above[a]), first = order[0];
  const list = document.createElement("div");
  list.className = "bands";
  names.forEach((name, i) => {
    const label = document.createElement("span"), bar = document.createElement("div");
    label.textContent = name;
    bar.style.width = `${most ? 100 * Math.abs(above[i]) / most : 0}%`;
    bar.className = above[i] < 0 ? "below" : "above";
    bar.title = `${scores[i]}, usually ${usual[i]}`;
    list.append(label, bar);
  });
  const words = `${scores[first]}, usually ${usual[first]}`;
  const which = /^\d+$/.test(names[first]) ? `band ${names[first]}` : names[first];
  const caption = document.createElement("figcaption");
  caption.textContent = "band scores above (orange) and below (blue) their usual values: " +
    "the medians of held-out training clips";
  return [paragraph(`Raised most by ${which}: ${words}`), list, caption];
}

function drawWorst(machine) {
  byId("unexplained").textContent = method().unexplained;
  byId("worst").replaceChildren(...machine.worst.map(([path, text]) => {
    const figure = clip(data.media[`${chosen.datasets}/${path}`], [text, path]);
    const bands = machine.bands.clips?.[path];
    if (bands) figure.append(...bars(machine.bands, bands));
    const normal = machine.nearest[path], pairs = data.compared[`${chosen.datasets}/${path}`];
    if (normal) figure.append(...comparison(normal, pairs[normal]));
    return figure;
  }));
}

function show() {
  const shown = data.datasets.filter(entry => Object.keys(entry.methods).length);
  tabs("datasets", shown.map(entry => entry.name));
  if (!dataset()) return;
  const methods = dataset().methods;
  const machines = Object.values(methods).flatMap(entry => Object.keys(entry.machines));
  tabs("machines", [...new Set(machines)]);
  tabs("methods", Object.keys(methods).filter(name => methods[name].machines[chosen.machines]));
  const machine = method().machines[chosen.machines];
  byId("details").hidden = false;
  byId("heading").textContent = `${chosen.machines}, ${chosen.methods}, seed ${method().seed}`;
  drawRoc(machine.roc);
  drawScores(machine);
  draw("epochs", lines(machine.epochs), {xaxis: {title: {text: "epoch"}, dtick: 2}});
  draw("loss", lines(method().losses),
       {xaxis: {title: {text: "epoch"}}, yaxis: {rangemode: "tozero"}});
  drawMap(machine);
  drawWorst(machine);
}

const groupings = {class: "class (label or pseudo-label)", domain: "domain",
                   attribute: "attribute", condition: "normal or anomaly"};
for (const [value, text] of Object.entries(groupings)) byId("color").add(new Option(text, value));
byId("color").onchange = () => drawMap(method().machines[chosen.machines]);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
show();
