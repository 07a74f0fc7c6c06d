"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const chosen = {};
const byId = id => document.getElementById(id);
const colors = ["#4c8bf5", "#e8743b", "#19a979", "#c44d8f", "#9a77cf", "#bfa136", "#3aa6b9",
                "#d9485f", "#7a9a3d", "#8d7f70"];
const conditions = {normal: colors[0], anomaly: colors[1], training: colors[2], unknown: colors[9]};

function tabs(id, names) {
  if (!names.includes(chosen[id])) chosen[id] = names[0];
  const list = byId(id);
  list.hidden = names.length < 2;
  list.replaceChildren(...names.map(name => {
    const tab = document.createElement("button");
    tab.textContent = name;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-selected", name === chosen[id]);
    tab.tabIndex = name === chosen[id] ? 0 : -1;
    tab.onclick = () => { chosen[id] = name; show(); };
    tab.onkeydown = event => {
      const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
      if (!step) return;
      chosen[id] = names[(names.indexOf(name) + step + names.length) % names.length];
      show();
      list.querySelector("[aria-selected=true]").focus();
    };
    return tab;
  }));
}

function draw(id, traces, layout = {}) {
  const style = getComputedStyle(document.documentElement);
  const color = name => style.getPropertyValue(name).trim();
  const line = color("--line");
  const axis = {gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true};
  byId(id).closest("figure").hidden = !traces.length;
  if (!traces.length) return;
  Plotly.react(id, traces, {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: {color: color("--text"), size: 12},
    margin: {l: 45, r: 10, t: 20, b: 40}, colorway: colors,
    legend: {orientation: "h", y: 1, yanchor: "bottom"},
    hoverlabel: {align: "left", namelength: -1}, ...layout,
    xaxis: {...axis, ...layout.xaxis}, yaxis: {...axis, ...layout.yaxis},
    yaxis2: {...axis, ...layout.yaxis2},
  }, {displaylogo: false, responsive: true, displayModeBar: false});
}

function paragraph(words) {
  const line = document.createElement("p");
  line.textContent = words;
  return line;
}

// The clip, its nearest normal clip and their difference: thirds of one picture.
function comparison(normal, found) {
  if (found.missing) return [paragraph(`No comparison: ${found.missing}`)];
  const titles = [`the clip, ${found.scale}`, `nearest normal clip: ${normal.split("/").pop()}`,
                  "difference, blue: less, red: more, ±20 dB"];
  return [paragraph(`Differs most: ${found.sentence}`), ...titles.map((title, i) => {
    const part = document.createElement("figure"), caption = document.createElement("figcaption");
    const panel = document.createElement("div"), picture = new Image();
    caption.textContent = title;
    panel.className = "panel";
    picture.src = found.picture;
    picture.alt = title;
    picture.style.top = `${-100 * i}%`;
    panel.append(picture);
    if (i !== 1) {
      const mark = document.createElement("div");
      const [left, top, width, height] = found.region.map(percent => `${percent}%`);
      Object.assign(mark.style, {left, top, width, height});
      mark.className = "mark";
      panel.append(mark);
    }
    part.append(caption, panel);
    return part;
  })];
}

// A picture and a player of media, [sound, picture] or null, above lines of text.
function clip(media, texts) {
  const figure = document.createElement("figure");
  if (media) {
    const picture = new Image();
    picture.src = media[1];
    picture.alt = "spectrogram of the clip, 0 Hz at the bottom to half the sample rate";
    figure.append(picture, player(media[0]));
  }
  figure.append(...texts.map(paragraph));
  return figure;
}

function player(sound) {
  const audio = document.createElement("audio");
  return Object.assign(audio, {controls: true, preload: "none", src: sound});
}
