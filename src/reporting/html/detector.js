"use strict";
const threshold = (value, across) => {
  const place = across ? {x0: 0, x1: 1, xref: "paper", y0: value, y1: value}
                       : {x0: value, x1: value, y0: 0, y1: 1, yref: "paper"};
  return {type: "line", line: {color: "#888", dash: "dash"}, ...place};
};

// Where the axis of scores ends: one fault can score a thousand times the threshold.
function limit(kind) {
  const low = Math.min(...kind.calibration);
  return kind.threshold + 4 * (kind.threshold - low || 1);
}

function drawScores(id, kind) {
  const cut = x => x.map(value => Math.min(value, limit(kind)));
  const groups = {"calibration": cut(kind.calibration), "recent": cut(kind.scores)};
  const shown = Object.entries(groups).filter(([, x]) => x.length);
  const all = [...shown.flatMap(([, x]) => x), kind.threshold];
  const low = Math.min(...all), high = Math.max(...all);
  const bins = {start: low, end: high + 1e-9, size: (high - low || 1) / 30};
  draw(id, kind.calibration.length ? shown.map(([name, x], i) => ({
    type: "histogram", x, name, xbins: bins, opacity: 0.65, marker: {color: colors[2 - i]},
    histnorm: "percent",
  })) : [], {
    barmode: "overlay", shapes: [threshold(kind.threshold)],
    xaxis: {title: {text: "score"}}, yaxis: {title: {text: "percent"}},
  });
}

// Equal steps from one score to the next: recordings come in bursts.
function drawTimeline(id, kind) {
  const every = kind.scores.map((_, i) => i), end = limit(kind);
  const of = alarm => every.filter(i => kind.alarms[i] === alarm);
  const trace = (name, rows, color) => ({
    type: "scatter", mode: "markers", name, x: rows, y: rows.map(i => Math.min(kind.shown[i], end)),
    marker: {
      color, size: 8, opacity: 0.8,
      symbol: rows.map(i => kind.shown[i] > end ? "triangle-up" : "circle"),
    },
    text: rows.map(i =>
      `${kind.clips[i].split("/").pop()}<br>${kind.times[i]}<br>score ${kind.shown[i]}`),
    hovertemplate: "%{text}",
  });
  const step = Math.max(1, Math.ceil(every.length / 6)), ticks = every.filter(i => i % step === 0);
  draw(id, every.length ? [
    trace("normal", of(false), colors[0]), trace("alarm", of(true), colors[7]),
  ] : [], {
    hovermode: "closest", shapes: [threshold(kind.threshold, true)],
    xaxis: {tickvals: ticks, ticktext: ticks.map(i => kind.times[i].slice(0, 16).replace("T", " "))},
    yaxis: {title: {text: "score"}},
  });
}

function drawDrift(machine) {
  byId("drift").replaceChildren(...machine.drift.flatMap(({line, clips}) => {
    const text = document.createElement("p"), list = document.createElement("pre");
    text.textContent = line;
    list.className = "scroll";
    list.textContent = clips.join("\n");
    return clips.length ? [text, list] : [text];
  }));
}

function drawClips(machine) {
  byId("clips").textContent = machine.clips.length ? machine.clips_title : "";
  byId("worst").replaceChildren(...machine.clips.map(one => {
    const figure = clip(one.media, one.texts);
    if (one.found) figure.append(...comparison(one.normal, one.found));
    if (one.normal_sound) figure.append(player(one.normal_sound), paragraph(one.normal));
    return figure;
  }));
}

function show() {
  tabs("machines", Object.keys(data.machines));
  const machine = data.machines[chosen.machines];
  byId("heading").textContent = chosen.machines;
  byId("promise").textContent = machine.promise;
  drawDrift(machine);
  drawScores("scores", machine.recordings);
  drawScores("window_scores", machine.windows);
  drawTimeline("recordings", machine.recordings);
  drawTimeline("windows", machine.windows);
  drawClips(machine);
  byId("facts").textContent = machine.facts.join("\n");
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
show();
