"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  if (!byId("data")) return;

  const data = JSON.parse(byId("data").textContent), words = JSON.parse(byId("words").textContent);
  const filters = byId("filters"), cards = byId("cards"), rows = byId("rows"), zoom = byId("zoom"), stage = byId("stage");
  const BATCH = 48, EAGER = 8, ROWS = 200, ZOOM_MAX = 12, SWIPE_PX = 60, STORE = "admodels feedback";
  const VIEWS = ["image", "map", "regions", "reference"];
  let shown = [], open = -1, scale = 1, eager = 0;

  const made = (tag, properties, ...inside) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...inside);
    return element;
  };
  // Texts and numbers are those of the page's catalogue.
  const say = (id, values = {}) => words[id].replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const number = (value, digits) => {
    const [whole, part] = (digits ? Number(value.toPrecision(digits)) : value).toString().split(".");
    return whole.replace(/\B(?=(\d{3})+$)/g, words.language.group) + (part ? words.language.decimal + part : "");
  };
  const kind = (flag) => ({ true: "flagged", false: "normal" })[flag] || "none";
  const verdict = (at) => data.today[at] === data.is_anomalous[at]
    ? say(kind(data.is_anomalous[at]))
    : say("today", { verdict: say(kind(data.is_anomalous[at])), today: say(kind(data.today[at])) });
  const fact = (name, at) => data.texts[data[name][at]];
  const layers = (at) => data.pictures[data.layers[at]];
  const address = (at, layer) => layer === "panels" ? `../${data.base[at]}` : `../${data.base[at]}/${layer}.webp`;
  const part = (at) => data.parts[data.part[at]];
  const alt = (at) => say("alt", { path: data.path[at], verdict: verdict(at), where: fact("where", at) });

  // Marks: kept in the browser where it lets us, by content, so that they hold on every night's page.
  let marks = {};
  try { marks = JSON.parse(localStorage.getItem(STORE)) || {}; } catch { /* private, or blocked */ }
  const key = (at) => JSON.stringify([data.lines[data.line[at]], data.image_sha256[at]]);
  const keep = (known, word) => {
    if (marks[known] === word) delete marks[known]; else marks[known] = word;
    try { localStorage.setItem(STORE, JSON.stringify(marks)); } catch { /* then until it is closed */ }
    count();
  };
  const press = (holder, at) => {
    for (const word of ["fine", "defect"])
      holder.querySelector(`[data-does=${word}]`).ariaPressed = String(marks[key(at)] === word);
  };
  const mark = (at, word) => {
    keep(key(at), word);
    for (const item of document.querySelectorAll("#cards [data-at], #rows [data-at]")) press(item, Number(item.dataset.at));  // copies are marked with it
    if (open === at) press(zoom, at);
  };
  // Marks of the audit are of one night, and apart from those of the gallery: the key has the night.
  const audited = [...document.querySelectorAll("#audit li")];
  const auditKey = (item) => JSON.stringify(JSON.parse(item.dataset.mark));
  const pressAudit = () => {
    for (const item of audited)
      for (const button of item.querySelectorAll("button"))
        button.ariaPressed = String(marks[auditKey(item)] === button.dataset.does);
    for (const holder of document.querySelectorAll("[data-audit]")) {
      const own = audited.filter((item) => JSON.parse(item.dataset.mark)[0] === holder.dataset.audit);
      const missing = own.filter((item) => !marks[auditKey(item)]).length;
      holder.textContent = say(missing ? "audit_open" : "audit", { marked: number(own.length - missing), all: number(own.length) });
    }
  };
  const markAudit = (item, word) => {
    keep(auditKey(item), word);
    pressAudit();
  };
  const ours = () => Object.entries(marks).map(([known, word]) => [...JSON.parse(known), word])
    .filter(([line]) => data.lines.includes(line));
  const save = () => {
    const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;
    const places = ([line, sha256, ...rest]) => [line, sha256, rest.pop(), rest.length ? "audit" : "", ...rest, ""].slice(0, 5);
    const table = [["line", "image_sha256", "verdict", "section", "night"], ...ours().map(places)];
    const text = table.map((row) => `${row.map(quoted).join(",")}\r\n`).join("");
    const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    made("a", { href: url, download: "verdicts.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  };

  // What is seen of an image: layers over each other in a frame, and a pair of the place and its reference.
  const layer = (at, name, loading, text = "") =>
    made("img", { className: name, alt: text, src: address(at, name), loading, decoding: "async" });
  const picture = (at, loading) => {
    const own = layers(at), base = own.includes("panels") ? "panels" : "image";
    const frame = made("span", { className: "frame" }, layer(at, base, loading, alt(at)));
    const over = data.is_anomalous[at] === false ? ["map"] : ["map", "regions"];  // what is not flagged points nowhere
    for (const name of over) if (own.includes(name)) frame.append(layer(at, name, loading));
    const seen = made("span", { className: "seen" }, frame);
    const pair = made("span", { className: "pair" });
    for (const [name, text] of [["crop", say("place")], ["reference", say("normal_place")]])
      if (own.includes(name)) pair.append(made("span", {}, layer(at, name, loading, text), made("span", { className: "soft", textContent: text })));
    if (own.includes("reference")) seen.append(pair);
    else seen.append(made("span", { className: "soft lacking", textContent: say("no_reference") }));
    return seen;
  };
  const answers = (at) => ["where", "size", "why", "now"].flatMap((name) =>
    [made("dt", { textContent: words[`fact_${name}`] }), made("dd", { textContent: fact(name, at) })]);
  const buttons = (at) => made("div", { className: "mark" }, ...["fine", "defect"].map((word) => {
    const text = words[`mark_${word}`];
    const button = made("button", { type: "button", textContent: text, ariaLabel: say("mark_of", { word: text, path: data.path[at] }) });
    button.dataset.does = word;
    return button;
  }));
  const named = (at) => {
    const line = made("p", { className: "soft" }, made("b", { textContent: verdict(at) }), " · ", made("bdi", { textContent: data.lines[data.line[at]] }));
    if (!data.trusted[data.line[at]]) line.append(` · ${say("not_trusted")}`);
    if (part(at)) line.append(made("br"), made("bdi", { textContent: part(at).name }), ` · ${part(at).verdict}`);
    return line;
  };
  const card = (at) => {
    const seen = picture(at, eager-- > 0 ? "eager" : "lazy"), [width, height] = [data.width[at] || 1, data.height[at] || 1];
    const frame = seen.firstElementChild;
    frame.style.width = `${Math.min(1, width / height) * 100}%`;
    frame.style.aspectRatio = `${width} / ${height}`;
    const item = made("li", { className: data.is_anomalous[at] ? "flagged" : "" },
      made("button", { type: "button", className: "picture", ariaLabel: say("enlarge", { path: alt(at) }) }, seen),
      made("p", { className: "file" }, made("bdi", { textContent: data.path[at] })),
      named(at),
      made("dl", { className: "facts" }, ...answers(at)),
      buttons(at));
    item.dataset.at = at;
    press(item, at);
    return item;
  };
  const row = (at) => {
    const cell = (name) => made("td", { className: "wide", textContent: fact(name, at) });
    const item = made("tr", {},
      made("th", { scope: "row", className: "file" }, made("bdi", { textContent: data.path[at] })),
      made("td", { className: "name" }, made("bdi", { textContent: data.lines[data.line[at]] }), ...(part(at) ? [made("br"), part(at).name] : [])),
      made("td", { className: "name", textContent: verdict(at) }),
      cell("where"), cell("size"), cell("why"), made("td", {}, buttons(at)));
    item.dataset.at = at;
    press(item, at);
    return item;
  };
  const heading = (at) => made("li", { className: "group" }, made("h3", { textContent: part(at) ? `${part(at).name}: ${part(at).verdict}` : say("no_part") }));

  // Cards and rows are made when they are scrolled to.
  const grower = (home, button, batch, make, ended = () => {}) => {
    let list = [], drawn = 0;
    const more = () => {
      home.append(...list.slice(drawn, drawn + batch).flatMap(make));
      drawn = Math.min(list.length, drawn + batch);
      button.hidden = drawn >= list.length;
      if (button.hidden) ended();
      ahead.disconnect();  // watched anew, it says at once whether there is room for more
      ahead.observe(button);
    };
    const ahead = new IntersectionObserver((seen) => seen[0].isIntersecting && !button.hidden && more(), { rootMargin: "1200px" });
    button.addEventListener("click", () => {
      const first = drawn;
      more();
      home.querySelector(`[data-at="${list[first]}"] button`)?.focus();
    });
    return {
      more,
      reset: (ats) => { list = ats; drawn = 0; home.replaceChildren(); more(); },
      until: (at) => { while (drawn <= list.indexOf(at)) more(); },
    };
  };
  const isByPart = () => filters.elements.order?.value === "part";
  let group = null;
  const gallery = grower(cards, byId("more"), BATCH, (at) => {
    if (!isByPart() || data.part[at] === group) return [card(at)];
    group = data.part[at];
    return [heading(at), card(at)];
  }, () => {  // the table stands below the last card, not below those made so far
    const without = shown.filter((at) => !layers(at).length);
    byId("rest").hidden = !without.length;
    others.reset(without);
  });
  const others = grower(rows, byId("more-rows"), ROWS, (at) => [row(at)]);

  const count = () => {
    const unread = [...document.querySelectorAll("#unread tr")];
    byId("count").textContent = say("count", {
      shown: number(shown.length), all: number(data.line.length),
      files: number(unread.filter((file) => !file.hidden).length), all_files: number(unread.length), marked: number(ours().length),
    });
  };
  const inOrder = (ats) => {
    if (!isByPart()) return ats;
    const first = new Map();
    ats.forEach((at, place) => first.has(data.part[at]) || first.set(data.part[at], data.part[at] < 0 ? Infinity : place));
    return [...ats].sort((a, b) => first.get(data.part[a]) - first.get(data.part[b]) || a - b);
  };
  let onlyPart = null;  // the part whose images are shown
  const filter = () => {
    const wanted = Object.fromEntries(new FormData(filters)), text = wanted.path.toLowerCase();
    const fits = (at) =>
      (!wanted.line || data.line[at] === Number(wanted.line)) &&
      (!wanted.verdict || kind(data.is_anomalous[at]) === wanted.verdict) &&
      (!wanted.status || wanted.status === "scored") &&
      (!wanted.mark || (marks[key(at)] || "not yet") === wanted.mark) &&
      (onlyPart === null || data.part[at] === onlyPart) &&
      (!text || `${data.path[at]}\n${part(at)?.name ?? ""}`.toLowerCase().includes(text));
    shown = inOrder(data.line.map((_, at) => at).filter(fits));
    for (const row of document.querySelectorAll("#flagged-parts tr"))
      row.hidden = !data.parts[row.dataset.part].name.toLowerCase().includes(text);
    for (const file of document.querySelectorAll("#unread tr"))
      file.hidden = Boolean(wanted.verdict || wanted.mark ||
        (wanted.line && file.dataset.line !== wanted.line) || (wanted.status && file.dataset.status !== wanted.status) ||
        !file.cells[0].textContent.toLowerCase().includes(text));
    group = null;
    eager = EAGER;  // pictures that are there before anyone scrolls
    byId("rest").hidden = true;
    gallery.reset(shown.filter((at) => layers(at).length));
    count();
  };
  const look = (view) => {
    document.body.dataset.view = view;
    filters.elements.view.value = view;
    for (const name of VIEWS) zoom.querySelector(`[data-does=${name}]`).ariaPressed = String(name === view);
  };
  const nextView = () => look(VIEWS[(VIEWS.indexOf(document.body.dataset.view) + 1) % VIEWS.length]);

  const fit = () => {
    const frame = stage.querySelector(".frame"), width = data.width[open] || 1, height = data.height[open] || 1;
    if (!frame) return;
    const most = Math.min(stage.clientWidth / width, stage.clientHeight / height) * scale;
    frame.style.width = `${Math.floor(width * most)}px`;
    frame.style.height = `${Math.floor(height * most)}px`;
  };
  const enlarge = (by) => {
    const [x, y] = [stage.scrollLeft + stage.clientWidth / 2, stage.scrollTop + stage.clientHeight / 2];
    const before = scale;
    scale = by ? Math.min(ZOOM_MAX, Math.max(1, scale * by)) : 1;
    fit();
    const grown = scale / before;
    stage.scrollTo(x * grown - stage.clientWidth / 2, y * grown - stage.clientHeight / 2);
  };
  const show = (at) => {
    if (at === undefined) return;
    open = at;
    scale = 1;
    const has = layers(at).length > 0;
    stage.replaceChildren(...(has ? [picture(at, "eager")] : []));
    stage.hidden = byId("file").hidden = !has;
    byId("zoom-missing").hidden = has;
    if (has) byId("file").href = address(at, layers(at)[0]);
    byId("zoom-name").replaceChildren(made("bdi", { textContent: data.path[at] }));
    byId("zoom-facts").replaceChildren(...answers(at));
    byId("zoom-numbers").textContent = say("numbers", {
      score: number(data.anomaly_score[at], 4), p: data.p_value[at] == null ? words.unknown : number(data.p_value[at], 3),
      width: number(data.width[at] || 0), height: number(data.height[at] || 0), sha256: data.image_sha256[at],
    });
    press(zoom, at);
    if (!zoom.open) zoom.showModal();
    fit();
  };
  const step = (by) => show(shown[shown.indexOf(open) + by]);
  const does = {
    close: () => zoom.close(), before: () => step(-1), next: () => step(1),
    in: () => enlarge(1.5), out: () => enlarge(1 / 1.5), whole: () => enlarge(0),
    fine: () => mark(open, "fine"), defect: () => mark(open, "defect"),
    ...Object.fromEntries(VIEWS.map((view) => [view, () => look(view)])),
  };
  const keys = { 1: "image", 2: "map", 3: "regions", 4: "reference", f: "fine", d: "defect", "+": "in", "=": "in", "-": "out", 0: "whole", ArrowLeft: "before", ArrowRight: "next" };
  const isChord = (event) => event.ctrlKey || event.metaKey || event.altKey;

  const onMark = (event) => {
    const button = event.target.closest("button"), at = Number(event.target.closest("[data-at]")?.dataset.at);
    if (button?.dataset.does) mark(at, button.dataset.does);
    else if (button) show(at);
  };
  cards.addEventListener("click", onMark);
  rows.addEventListener("click", onMark);
  cards.addEventListener("keydown", (event) => {
    if (isChord(event) || !event.target.matches(".picture")) return;
    const items = [...cards.querySelectorAll("[data-at]")], item = event.target.closest("li"), here = items.indexOf(item);
    const across = getComputedStyle(cards).gridTemplateColumns.split(" ").length;
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across, Home: -here }[event.key];
    const does = keys[event.key];
    if (by !== undefined) {
      if (here + by >= items.length) gallery.more();
      cards.querySelectorAll("[data-at]")[here + by]?.querySelector(".picture").focus();
    } else if (VIEWS.includes(does)) look(does);
    else if (does === "fine" || does === "defect") mark(Number(item.dataset.at), does);
    else return;
    event.preventDefault();
  });
  zoom.addEventListener("click", (event) => does[event.target.dataset.does]?.());
  zoom.addEventListener("keydown", (event) => {
    const pans = event.key.startsWith("Arrow") && event.target === stage && scale > 1;
    if (isChord(event) || pans || !keys[event.key]) return;
    does[keys[event.key]]();
    event.preventDefault();
  });
  zoom.addEventListener("close", () => {
    gallery.until(open);
    cards.querySelector(`[data-at="${open}"] .picture`)?.focus();
    open = -1;
  });
  let touched = null;
  stage.addEventListener("click", nextView);
  stage.addEventListener("touchstart", (event) => { touched = event.changedTouches[0]; }, { passive: true });
  stage.addEventListener("touchend", (event) => {
    const [x, y] = [event.changedTouches[0].clientX - touched.clientX, event.changedTouches[0].clientY - touched.clientY];
    if (scale > 1 || Math.abs(x) < SWIPE_PX || Math.abs(x) < 2 * Math.abs(y)) return;
    step(x < 0 ? 1 : -1);
    if (event.cancelable) event.preventDefault();  // it is no tap
  });
  addEventListener("resize", () => zoom.open && fit());
  addEventListener("beforeprint", () => { for (const image of cards.querySelectorAll("img")) image.loading = "eager"; });
  filters.addEventListener("input", (event) => event.target.name === "view" ? look(event.target.value) : filter());
  filters.addEventListener("submit", (event) => event.preventDefault());
  byId("flagged-parts")?.addEventListener("click", (event) => {
    if (!event.target.matches("button")) return;
    onlyPart = Number(event.target.dataset.part);
    filter();
    byId("gallery").scrollIntoView();
    cards.querySelector(".picture")?.focus({ preventScroll: true });
  });
  filters.addEventListener("reset", () => setTimeout(() => { onlyPart = null; filters.elements.view.value = document.body.dataset.view; filter(); }));
  for (const button of document.querySelectorAll("[data-save]")) button.addEventListener("click", save);
  for (const item of audited) {
    item.addEventListener("click", (event) => event.target.dataset.does && markAudit(item, event.target.dataset.does));
    item.addEventListener("keydown", (event) => {
      const word = { f: "fine", d: "defect", u: "unsure" }[event.key];
      if (word && !isChord(event)) markAudit(item, word);
    });
  }
  for (const hidden of [filters, byId("help"), ...document.querySelectorAll("#audit [hidden]")]) hidden.hidden = false;
  pressAudit();
  look("regions");
  filter();
})();
