"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  if (!byId("data")) return;

  const data = JSON.parse(byId("data").textContent);
  const filters = byId("filters"), cards = byId("cards"), zoom = byId("zoom"), stage = byId("stage");
  const BATCH = 48, ZOOM_MAX = 12, STORE = "admodels feedback";
  let thumbnails = [], shown = [], drawn = 0, open = -1, scale = 1;

  const made = (tag, properties, ...inside) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...inside);
    return element;
  };
  const words = (flag) => ({ true: "flagged", false: "not flagged" })[flag] || "no verdict";
  const verdict = (at) => words(data.is_anomalous[at]);
  const today = (at) => data.today[at] === data.is_anomalous[at] ? "" : ` (today: ${words(data.today[at])})`;
  const figures = (at) => `score ${data.anomaly_score[at].toPrecision(3)}, ${data.excess[at].toFixed(1)}x`;
  const facts = (at) => `${verdict(at)}${today(at)}, ${data.lines[data.line[at]]}, ${figures(at)}`;
  const large = (at) => data.picture[at] && `../${data.picture[at]}`;
  const small = (at) => (thumbnails[at] ? `data:image/webp;base64,${thumbnails[at]}` : large(at));

  // Marks: kept in the browser where it lets us, by content, so that they hold on every night's page.
  let marks = {};
  try { marks = JSON.parse(localStorage.getItem(STORE)) || {}; } catch { /* private, or blocked */ }
  const key = (at) => JSON.stringify([data.lines[data.line[at]], data.image_sha256[at]]);
  const keep = (known, word) => {
    if (marks[known] === word) delete marks[known]; else marks[known] = word;
    try { localStorage.setItem(STORE, JSON.stringify(marks)); } catch { /* then until it is closed */ }
    tell();
  };
  const mark = (at, word) => {
    keep(key(at), word);
    for (const item of cards.children) press(item, Number(item.dataset.at));  // copies are marked with it
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
      holder.textContent = `${own.length - missing} of ${own.length} marked in this browser${missing ? "; the night does not count yet" : ""}`;
    }
  };
  const markAudit = (item, word) => {
    keep(auditKey(item), word);
    pressAudit();
  };
  const ours = () => Object.entries(marks).map(([known, word]) => [...JSON.parse(known), word])
    .filter(([line]) => data.lines.includes(line));
  const press = (holder, at) => {
    for (const word of ["fine", "defect"])
      holder.querySelector(`[data-does=${word}]`).ariaPressed = String(marks[key(at)] === word);
  };
  const save = () => {
    const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;
    const places = ([line, sha256, ...rest]) => [line, sha256, rest.pop(), rest.length ? "audit" : "", ...rest, ""].slice(0, 5);
    const rows = [["line", "image_sha256", "verdict", "section", "night"], ...ours().map(places)];
    const text = rows.map((row) => `${row.map(quoted).join(",")}\r\n`).join("");
    const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    made("a", { href: address, download: "verdicts.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  };

  const card = (at) => {
    const box = made("span", { className: "frame" });
    const [width, height] = [data.width[at] || 1, data.height[at] || 1];
    box.style.width = `${Math.min(1, width / height) * 100}%`;
    box.style.aspectRatio = `${width} / ${height}`;
    const alt = `${data.path[at]}: ${facts(at)}`;
    const picture = made("button", { type: "button", className: "picture" });
    if (small(at)) {
      box.append(made("img", { alt, src: small(at), loading: "lazy", decoding: "async" }));
      picture.append(box);
    } else picture.append(made("span", { className: "soft", textContent: "no picture", ariaLabel: `${alt}, no picture` }));
    const buttons = ["fine", "defect"].map((word) => {
      const button = made("button", { type: "button", textContent: word, ariaLabel: `${word}: ${data.path[at]}` });
      button.dataset.does = word;
      return button;
    });
    const item = made("li", { className: data.is_anomalous[at] ? "flagged" : "" },
      picture,
      made("p", { className: "file" }, made("bdi", { textContent: data.path[at] })),
      made("p", { className: "soft" }, made("b", { textContent: verdict(at) + today(at) }),
        data.trusted[data.line[at]] ? " " : ", not trustworthy, ", made("bdi", { textContent: data.lines[data.line[at]] }), made("br"), figures(at)),
      made("div", { className: "mark" }, ...buttons));
    item.dataset.at = at;
    press(item, at);
    return item;
  };

  const ahead = new IntersectionObserver((seen) => seen[0].isIntersecting && more(), { rootMargin: "1200px" });
  const more = () => {
    cards.append(...shown.slice(drawn, drawn + BATCH).map(card));
    drawn = cards.children.length;
    byId("more").hidden = drawn >= shown.length;
    ahead.disconnect();  // watched anew, it says at once whether there is room for more
    ahead.observe(byId("more"));
  };
  const tell = () => {
    const unread = [...document.querySelectorAll("#unread tr")];
    const count = `${shown.length} of ${data.line.length} parts`;
    const files = `${unread.filter((row) => !row.hidden).length} of ${unread.length} unreadable files`;
    byId("count").textContent = `${count}, ${files}; ${ours().length} marked in this browser`;
  };
  const filter = () => {
    const wanted = Object.fromEntries(new FormData(filters));
    const text = wanted.path.toLowerCase();
    const fits = (at) =>
      (!wanted.line || data.line[at] === Number(wanted.line)) &&
      (!wanted.verdict || verdict(at) === wanted.verdict) &&
      (!wanted.status || wanted.status === "scored") &&
      (!wanted.mark || (marks[key(at)] || "not yet") === wanted.mark) &&
      (!text || data.path[at].toLowerCase().includes(text));
    shown = data.line.map((_, at) => at).filter(fits);
    for (const row of document.querySelectorAll("#unread tr"))
      row.hidden = Boolean(wanted.verdict || wanted.mark ||
        (wanted.line && row.dataset.line !== wanted.line) || (wanted.status && row.dataset.status !== wanted.status) ||
        !row.cells[0].textContent.toLowerCase().includes(text));
    cards.replaceChildren();
    drawn = 0;
    more();
    tell();
  };
  const overlay = () => {
    const on = document.body.classList.toggle("overlaid");
    for (const button of [byId("overlay"), zoom.querySelector("[data-does=overlay]")]) button.ariaPressed = String(on);
  };

  const fit = () => {
    const frame = stage.firstElementChild, width = data.width[open] || 1, height = data.height[open] || 1;
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
    const image = stage.querySelector("img"), address = large(at);
    image.alt = `${data.path[at]}: ${facts(at)}`;
    if (address) image.src = address; else image.removeAttribute("src");
    stage.hidden = byId("file").hidden = !address;
    byId("zoom-missing").hidden = Boolean(address);
    if (address) byId("file").href = address;
    byId("zoom-name").replaceChildren(made("bdi", { textContent: data.path[at] }));
    byId("zoom-facts").textContent =
      `${facts(at)}, p ${data.p_value[at]?.toPrecision(3) ?? "n/a"}, sha256 ${data.image_sha256[at]}`;
    press(zoom, at);
    if (!zoom.open) zoom.showModal();
    fit();
  };
  const step = (by) => show(shown[shown.indexOf(open) + by]);
  const does = {
    close: () => zoom.close(), before: () => step(-1), next: () => step(1), overlay,
    in: () => enlarge(1.5), out: () => enlarge(1 / 1.5), whole: () => enlarge(0),
    fine: () => mark(open, "fine"), defect: () => mark(open, "defect"),
  };
  const keys = { o: "overlay", f: "fine", d: "defect", "+": "in", "=": "in", "-": "out", 0: "whole", ArrowLeft: "before", ArrowRight: "next" };

  cards.addEventListener("click", (event) => {
    const button = event.target.closest("button"), at = Number(event.target.closest("li")?.dataset.at);
    if (button?.dataset.does) mark(at, button.dataset.does);
    else if (button) show(at);
  });
  cards.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !event.target.matches(".picture")) return;
    const item = event.target.closest("li"), here = [...cards.children].indexOf(item);
    const columns = getComputedStyle(cards).gridTemplateColumns.split(" ").length;
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -here }[event.key];
    if (by !== undefined) {
      if (here + by >= drawn) more();
      cards.children[here + by]?.querySelector(".picture").focus();
    } else if (event.key === "o") overlay();
    else if (event.key === "f" || event.key === "d") mark(Number(item.dataset.at), keys[event.key]);
    else return;
    event.preventDefault();
  });
  zoom.addEventListener("click", (event) => does[event.target.dataset.does]?.());
  zoom.addEventListener("keydown", (event) => {
    const pans = event.key.startsWith("Arrow") && event.target === stage && scale > 1;
    if (event.ctrlKey || event.metaKey || event.altKey || pans || !keys[event.key]) return;
    does[keys[event.key]]();
    event.preventDefault();
  });
  zoom.addEventListener("close", () => {
    const at = shown.indexOf(open);
    while (drawn <= at) more();
    cards.children[at]?.querySelector(".picture").focus();
    open = -1;
  });
  stage.addEventListener("dblclick", () => enlarge(scale > 1 ? 0 : 3));
  addEventListener("resize", () => zoom.open && fit());
  filters.addEventListener("input", filter);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(filter));
  byId("overlay").addEventListener("click", overlay);
  for (const button of document.querySelectorAll("[data-save]")) button.addEventListener("click", save);
  for (const item of audited) {
    item.addEventListener("click", (event) => event.target.dataset.does && markAudit(item, event.target.dataset.does));
    item.addEventListener("keydown", (event) => {
      const word = { f: "fine", d: "defect", u: "unsure" }[event.key];
      if (word && !event.ctrlKey && !event.metaKey && !event.altKey) markAudit(item, word);
    });
  }
  byId("more").addEventListener("click", () => {
    const first = drawn;
    more();
    cards.children[first]?.querySelector(".picture").focus();
  });
  const take = () => {
    thumbnails = [...document.querySelectorAll(".thumbnails")].flatMap((block) => JSON.parse(block.textContent));
  };
  for (const part of [filters, byId("help"), ...document.querySelectorAll("#audit [hidden]")]) part.hidden = false;
  pressAudit();
  take();
  filter();
  document.addEventListener("DOMContentLoaded", take);
})();
