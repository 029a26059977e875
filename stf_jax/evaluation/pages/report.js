"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const BAR_HEIGHT = 34;
  const [frameWidth, frameHeight] = data.frame;
  const byId = (id) => document.getElementById(id);
  const controls = ["search", "camera", "gallery-camera", "outcome", "answer", "order", "size"].filter(byId);
  let page = 0, printing = false;

  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const drawn = (name, attributes = {}, text = "") => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    return made;
  };
  const percent = (value) => `${(100 * value).toFixed(1)} %`;
  const weight = (hundredths) => (hundredths === null ? "left out" : (hundredths / 100).toFixed(2));

  // A separate pattern, so that the three bars differ in more than colour.
  const hatch = drawn("svg", { width: 0, height: 0, "aria-hidden": "true", focusable: "false" });
  const pattern = drawn("pattern", {
    id: "hatch", width: 4, height: 4, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)",
  });
  pattern.append(drawn("rect", { width: 2, height: 4, style: "fill: var(--inter)" }));
  hatch.append(pattern);
  hatch.style.position = "absolute";
  document.body.append(hatch);

  function bars(tracklet) {
    const width = tracklet.frames.length * frameWidth;
    const svg = drawn("svg", { class: "bars", width, height: BAR_HEIGHT, "aria-hidden": "true", focusable: "false" });
    const slot = (frameWidth - 8) / data.kinds.length;
    const scale = (BAR_HEIGHT - 3) / data.full;
    tracklet.frames.forEach((number, i) => {
      const group = drawn("g");
      const weights = data.kinds.map((k) => `${k} ${weight(tracklet.weights[k] ? tracklet.weights[k][i] : null)}`);
      group.append(drawn("title", {}, `frame ${number}: ${weights.join(", ")}`));
      group.append(drawn("rect", { x: i * frameWidth, width: frameWidth, height: BAR_HEIGHT, fill: "transparent" }));
      data.kinds.forEach((kind, k) => {
        const value = tracklet.weights[kind] ? tracklet.weights[kind][i] : null;
        if (value === null) return;
        const height = Math.max(1, value * scale);
        group.append(drawn("rect", {
          class: kind, x: i * frameWidth + 5 + k * slot, y: BAR_HEIGHT - height, width: slot - 2, height,
        }));
      });
      svg.append(group);
    });
    for (const [at, kind] of [[100, "halo"], [100, "mean"], [0, "base"]]) {
      const y = BAR_HEIGHT - at * scale - (at ? 0 : 0.5);
      svg.append(drawn("line", { class: kind, x1: 0, x2: width, y1: y, y2: y }));
    }
    return svg;
  }

  function strip(tracklet) {
    const frames = tracklet.frames;
    const weights = data.kinds.filter((kind) => tracklet.weights[kind]).map(
      (kind) => `${kind} ${tracklet.weights[kind].map(weight).join(", ")}`);
    const what = `${tracklet.name}: frames ${frames.join(", ")} of ${tracklet.length}` +
      (weights.length ? `; weights relative to the mean: ${weights.join("; ")}` : "");
    const loading = { height: frameHeight, loading: printing ? "eager" : "lazy", decoding: "async" };
    const image = tracklet.strip
      ? element("img", { class: "strip", src: `${data.folder}/${tracklet.strip}`, width: frames.length * frameWidth, ...loading, alt: what })
      : element("div", { class: "strip frames", role: "img", "aria-label": what,
          style: `width: ${frames.length * frameWidth}px; height: ${frameHeight}px` },
        ...tracklet.files.map((src) => element("img", { src, width: frameWidth, ...loading, alt: "" })));
    return data.kinds.length ? [image, bars(tracklet)] : [image];
  }

  function card(query, i) {
    const tracklet = data.tracklets.g[query.entries[i]];
    const figure = element("figure", { class: "card" }, ...strip(tracklet));
    const line = element("span", { class: "line" });
    const place = element("span", {}, `${i + 1}. `);
    if (data.labelled) {
      const right = Boolean(query.right[i]);
      figure.classList.add(right ? "right" : "wrong");
      place.append(element("span", { class: `badge ${right ? "right" : "wrong"}` }, right ? "✓ right" : "✗ wrong"));
    }
    const near = query.probable ? `${percent(query.probable[i])} same` : `distance ${query.distances[i].toFixed(3)}`;
    if (query.probable) line.title = `distance ${query.distances[i].toFixed(3)}`;
    line.append(place, element("span", {}, near));
    figure.append(element("figcaption", {}, line, element("span", { class: "what" }, tracklet.name)));
    return element("li", {}, figure);
  }

  function summary(query) {
    const said = [];
    if (query.pooled) said.push(`${query.pooled} tracklets pooled; the first is shown`);
    if (data.labelled) {
      if (query.matches === 0) said.push("no match in the gallery: not scored");
      else said.push(`average precision ${percent(query.ap)}`, `first match at rank ${query.first}`,
        `${query.matches} ${query.matches === 1 ? "match" : "matches"} in the gallery`);
    }
    return said.join(" · ");
  }

  function article(number) {
    const query = data.queries[number];
    const tracklet = data.tracklets.q[number];
    const title = element("h3", { id: `query-${number}` }, `Query: ${tracklet.name}`);
    const head = element("div", { class: "head" }, title);
    if (data.labelled && query.matches > 0) {
      const right = query.right[0] === 1;
      head.append(element("span", { class: `badge ${right ? "right" : "wrong"}` },
        right ? "✓ best entry is right" : "✗ best entry is wrong"));
    }
    head.append(element("p", {}, summary(query)));
    const figure = element("figure", { class: "card" }, ...strip(tracklet),
      element("figcaption", {}, element("span", { class: "line" },
        element("span", { class: "badge" }, "query"), element("span", {}, `${tracklet.length} frames`))));
    const entries = element("ol", { class: "entries", "aria-label": "Best entries, nearest first" },
      ...query.entries.map((_, i) => card(query, i)));
    const answer = query.nobody ? element("p", { class: "nobody" }, "Nobody in the gallery") : entries;
    return element("article", { "aria-labelledby": title.id }, head,
      element("div", { class: "body" }, element("div", { class: "query" }, figure), answer));
  }

  const value = (id) => (byId(id) ? byId(id).value : "");
  const nearest = (n) => (data.queries[n].distances.length ? data.queries[n].distances[0] : Infinity);
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  const orders = {
    worst: (a, b) => {
      const [p, q] = [data.queries[a], data.queries[b]];
      return compare(p.ap === null, q.ap === null) || compare(p.ap, q.ap) || compare(q.first, p.first) || a - b;
    },
    best: (a, b) => {
      const [p, q] = [data.queries[a], data.queries[b]];
      return compare(p.ap === null, q.ap === null) || compare(q.ap, p.ap) || compare(p.first, q.first) || a - b;
    },
    near: (a, b) => compare(nearest(a), nearest(b)) || a - b,
    far: (a, b) => compare(nearest(b), nearest(a)) || a - b,
    file: (a, b) => a - b,
  };
  const outcomes = {
    right: (q) => q.matches > 0 && q.right[0] === 1,
    wrong: (q) => q.matches > 0 && q.right[0] !== 1,
    unseen: (q) => q.matches > 0 && !q.right.includes(1),
    none: (q) => q.matches === 0,
  };

  function chosen() {
    const wanted = value("search").trim().toLowerCase();
    const isNumber = /^-?[0-9]+$/.test(wanted);
    const camera = value("camera"), galleryCamera = value("gallery-camera");
    const outcome = value("outcome"), answer = value("answer");
    return data.queries.map((_, n) => n).filter((n) => {
      const query = data.queries[n], tracklet = data.tracklets.q[n];
      if (camera !== "" && String(tracklet.camera) !== camera) return false;
      if (galleryCamera !== "") {
        const best = data.tracklets.g[query.entries[0]];
        if (!best || String(best.camera) !== galleryCamera) return false;
      }
      if (outcome && !outcomes[outcome](query)) return false;
      if (answer && (answer === "nobody") !== query.nobody) return false;
      if (!wanted) return true;
      // A number is a person's id where there are such ids; else any part of the name will do.
      if (isNumber && tracklet.person >= 0) return tracklet.person === Number(wanted);
      return tracklet.name.toLowerCase().includes(wanted);
    }).sort(orders[value("order")]);
  }

  function show() {
    const rows = chosen();
    // On paper there is no second page to turn to.
    const size = printing || value("size") === "all" ? Math.max(1, rows.length) : Number(value("size"));
    const pages = Math.max(1, Math.ceil(rows.length / size));
    page = Math.min(Math.max(0, page), pages - 1);
    const first = page * size, last = Math.min(rows.length, first + size);
    byId("queries").replaceChildren(...rows.slice(first, last).map(article));
    const status = rows.length
      ? `Queries ${first + 1} to ${last} of ${rows.length}; page ${page + 1} of ${pages}`
      : "No query is like that; change or clear the filters";
    byId("status").textContent = status;
    document.querySelector(".status-copy").textContent = status;
    for (const button of document.querySelectorAll("[data-go]"))
      button.disabled = button.dataset.go === "1" ? page + 1 >= pages : page === 0;
    const state = new URLSearchParams();
    for (const id of controls) if (value(id) !== initial[id]) state.set(id, value(id));
    if (page) state.set("page", page + 1);
    try {
      history.replaceState(null, "", state.size ? `#${state}` : location.pathname + location.search);
    } catch (error) {
      // Some browsers forbid it for files; the page works without.
    }
  }

  const initial = Object.fromEntries(controls.map((id) => [id, value(id)]));
  function restore() {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const id of controls) if (state.has(id)) byId(id).value = state.get(id);
    for (const id of controls) if (byId(id).tagName === "SELECT" && byId(id).selectedIndex < 0) byId(id).value = initial[id];
    page = Number(state.get("page") || 1) - 1 || 0;
  }

  byId("filters").addEventListener("input", () => { page = 0; show(); });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(() => { page = 0; show(); }));
  for (const button of document.querySelectorAll("[data-go]"))
    button.addEventListener("click", () => {
      page += Number(button.dataset.go);
      show();
      byId("lists").scrollIntoView();
      byId("lists").focus({ preventScroll: true });
    });
  for (const [event, on] of [["beforeprint", true], ["afterprint", false]])
    window.addEventListener(event, () => {
      const before = page;
      printing = on;
      show();
      page = on ? before : page;
    });
  restore();
  show();
})();
