"use strict";
// Requests one by one. All text is set as text, never as markup; a group or a request is drawn when it is opened.
{
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const place = document.getElementById("viewer"), compares = data.runs.length > 1, CHUNK = 50;
  const make = (name, kind, ...children) => {
    const element = document.createElement(name);
    if (kind) element.className = kind;
    element.append(...children);
    return element;
  };
  const bdi = (text) => make("bdi", "", text);
  let pointer = "";
  const onOneLine = (text) => text.replace(/\n/g, "\u21b5");
  const plural = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
  const MEANINGS = {
    k: "drafted and kept", r: "the target's own, in place of a rejected draft",
    b: "the target's own, after drafts that were all kept", u: "the target's own, nothing was drafted",
    "": "not known how it came about",
  };

  // Arabic letters go on joining where something thrown away stands between them; some join backwards only.
  const LETTER = /[\u0620\u0622-\u063f\u0641-\u064a\u066e-\u06d3\u06d5\u06ee\u06ef\u06fa-\u06ff]/;
  const BACKWARDS = /[\u0622-\u0625\u0627\u0629\u062f-\u0632\u0648\u0671-\u0677\u0688-\u0699\u06c0\u06c3-\u06cb\u06cd\u06cf\u06d2-\u06d5\u06ee\u06ef]/;
  const bare = (text) => text.replace(/\p{Mn}/gu, "");
  const joins = (before, after) => LETTER.test(bare(before).slice(-1)) && !BACKWARDS.test(bare(before).slice(-1)) && LETTER.test(bare(after)[0] ?? "");

  // ---------------------------------------------------------------- what follows from the data
  const rate = (trace) => trace.f ? -1 : trace.k.length ? trace.n / trace.k.length : trace.n;
  const slowest = (request) => Math.min(...request.t.map(rate));
  const isDifferent = (request) => request.t.some((trace) =>
    trace.k.length !== request.t[0].k.length || textOf(trace) !== textOf(request.t[0]));
  const textOf = (trace) => trace.w ?? trace.x.map((cell) => typeof cell === "string" ? cell : cell[0]).join("");

  function read(trace) {
    if (trace.fates) return trace;
    trace.fates = [];
    trace.steps = trace.k.map((kept, number) => {
      const begin = trace.fates.length, drafted = trace.d[number];
      for (let i = 0; i < kept; i += 1) trace.fates.push("k");
      const own = trace.fates.length < trace.n ? (kept < drafted ? "r" : drafted ? "b" : "u") : null;
      if (own) trace.fates.push(own);
      return {number, begin, kept, drafted, own, gone: trace.j?.[number] ?? ""};
    });
    trace.stepOf = trace.steps.flatMap((step) => Array(step.kept + (step.own ? 1 : 0)).fill(step));
    let last = -1;
    trace.cells = trace.x.map((cell) => {
      const [text, first, end, odd] = typeof cell === "string" ? [cell, last + 1, last + 1] : cell;
      last = end;
      return {text, first, end, odd, fates: Array.from({length: end - first + 1}, (_, i) => trace.fates[first + i] ?? "")};
    });
    return trace;
  }

  // ---------------------------------------------------------------- one trace
  const countsOf = (trace) => {
    const parts = ["k", "r", "b", "u"].map((fate) => [trace.fates.filter((each) => each === fate).length, MEANINGS[fate]]);
    parts.push([sum(trace.d) - sum(trace.k), "drafted and thrown away"]);
    return parts.filter(([n]) => n).map(([n, meaning]) => `${n.toLocaleString("en")} ${meaning}`).join("; ");
  };

  function goneOf(step, trace) {
    const number = step.drafted - step.kept;
    if (!number) return null;
    return make("del", "", bdi(onOneLine(step.gone) || `\u2026${number}`));
  }

  function tellOf(trace, cell) {
    const step = trace.stepOf[cell.end];
    const many = cell.end > cell.first;
    const names = many ? `Tokens ${cell.first + 1} to ${cell.end + 1}` : `Token ${cell.first + 1}`;
    const fates = [...new Set(cell.fates)].map((fate) => {
      const number = cell.fates.filter((each) => each === fate).length;
      return many ? `${number} ${MEANINGS[fate]}` : MEANINGS[fate];
    }).join(", ");
    const parts = [`${names} of ${trace.n}, \u201c`, bdi(onOneLine(cell.text)), `\u201d: ${fates}.`];
    if (step) parts.push(` Step ${step.number + 1} drafted ${step.drafted} and kept ${step.kept}`);
    if (step && step.gone && cell.fates.includes("r")) parts.push(", threw away \u201c", bdi(onOneLine(step.gone)), "\u201d");
    if (step) parts.push(".");
    const overlaps = [];
    for (let i = cell.first; i <= cell.end; i += 1) if (trace.o?.[i] != null) overlaps.push((trace.o[i] / 100).toFixed(2));
    if (overlaps.length) parts.push(` Overlap of drafter and target here: ${overlaps.join(", ")}.`);
    return parts;
  }

  function paint(span, cell, isRight) {
    const kinds = new Set(cell.fates);
    if (kinds.size === 1) {
      span.className = cell.fates[0];
      return;
    }
    span.className = "mixed";
    const colours = {k: "var(--kept)", r: "var(--own)", b: "var(--bonus)", u: "transparent", "": "transparent"};
    const width = 100 / cell.fates.length;
    const bands = cell.fates.map((fate, i) => `${colours[fate]} ${i * width}% ${(i + 1) * width}%`);
    span.style.background = `linear-gradient(to ${isRight ? "left" : "right"}, ${bands.join(", ")})`;
  }

  function drawTrace(trace, other, title, lang) {
    read(trace);
    const box = make("section", "trace");
    if (title) box.append(make("h3", "", bdi(title)));
    const steps = trace.k.length;
    const head = make("p", "counts", `${plural(trace.n, "token")} in ${plural(steps, "step")}${steps ? `: ${countsOf(trace)}` : ""}.`);
    if (trace.f) head.append(" It failed: ", bdi(trace.f), ".");
    if (trace.q) head.append(" Its text is not that of decoding without a drafter.");
    if (trace.r) head.append(" Not all that was thrown away is on record.");
    box.append(head);
    const text = make("p", "tokens");
    text.dir = "auto";
    if (lang) text.lang = lang;
    box.append(text);
    if (!trace.x.length) {
      text.append(trace.w ?? "");
      box.append(make("p", "detail", "Its record does not tell the tokens apart."));
      return box;
    }
    text.tabIndex = 0;
    text.setAttribute("role", "group");
    text.setAttribute("aria-label", `${title ? `${title}: ` : ""}text, token by token; arrow keys go through it`);
    const detail = make("p", "detail muted", "Point at the text, or go to it with Tab and through it with the arrow keys.");
    detail.setAttribute("role", "status");
    const begins = new Set(trace.steps.map((step) => step.begin)), owns = new Map();
    for (const step of trace.steps) owns.set(step.begin + step.kept, step);
    const spans = [], gone = [];
    const put = (step, isFirst) => {
      const element = goneOf(step, trace);
      if (!element) return false;
      element.classList.toggle("begin", isFirst && step.begin > 0);
      gone.push(element);
      text.append(element);
      return true;
    };
    trace.cells.forEach((cell, number) => {
      let border = "";
      for (let i = cell.first; i <= cell.end; i += 1) {
        if (begins.delete(i) && i) border = i === cell.first ? "begin" : "inside";
        const step = owns.get(i);
        owns.delete(i);
        const isCut = step && step.drafted > step.kept && number && joins(trace.cells[number - 1].text, cell.text);
        if (isCut) cell.isCut = true;
        if (step && put(step, border === "begin" && step.begin === cell.first) && border === "begin" && !step.kept) border = "gone-begins";
      }
      const span = make("span");
      cell.text.split("\n").forEach((line, at) => span.append(...(at ? [make("span", "break"), "\n"] : []), line));
      span.dataset.cell = number;
      spans.push(span);
      text.append(span);
      cell.border = border;
    });
    for (const step of owns.values()) put(step, false);
    const isRight = () => getComputedStyle(text).direction === "rtl";
    const colour = () => {
      const right = isRight();
      text.classList.toggle("rtl", right);
      const showsGone = !place.classList.contains("no-gone");
      spans.forEach((span, number) => {
        const cell = trace.cells[number];
        span.style.background = "";
        paint(span, cell, right);
        const begins = cell.border === "begin" || (cell.border === "gone-begins" && !showsGone);
        span.classList.toggle("begin", begins);
        span.classList.toggle("inside", cell.border === "inside");
        span.classList.toggle("odd", Boolean(cell.odd));
        span.classList.toggle("joined", Boolean(cell.isCut) && showsGone);
        span.classList.toggle("joins", Boolean(trace.cells[number + 1]?.isCut) && showsGone);
        if (other && place.classList.contains("different-only") && textOf(other) === textOf(trace)) {
          const same = cell.fates.every((fate, i) => (fate === "k") === (read(other).fates[cell.first + i] === "k"));
          span.classList.toggle("same", same);
          if (same) span.style.background = "";
        }
      });
      for (const element of gone) element.hidden = !showsGone || (Boolean(other) && place.classList.contains("different-only"));
    };
    box.recolour = colour;
    let current = -1;
    const go = (number) => {
      spans[current]?.classList.remove("current");
      current = Math.max(0, Math.min(spans.length - 1, number));
      spans[current].classList.add("current");
      detail.replaceChildren(...tellOf(trace, trace.cells[current]));
    };
    const pointed = (event) => {
      // A page that scrolls under a resting pointer, as keys make it do, points at nothing.
      const where = `${event.screenX} ${event.screenY}`;
      if (event.type === "mouseover" && where === pointer) return;
      pointer = where;
      const cell = event.target.closest("[data-cell]");
      if (cell) go(Number(cell.dataset.cell));
    };
    text.addEventListener("mouseover", pointed);
    text.addEventListener("click", pointed);
    text.addEventListener("focus", () => { if (current < 0) go(0); });
    text.addEventListener("keydown", (event) => {
      const forward = isRight() ? "ArrowLeft" : "ArrowRight", back = isRight() ? "ArrowRight" : "ArrowLeft";
      const stepAt = (move) => {
        const step = trace.stepOf[trace.cells[Math.max(current, 0)].end];
        const next = step && trace.steps[step.number + move];
        const found = next ? trace.cells.findIndex((cell) => cell.end >= next.begin) : -1;
        return found < 0 ? current : found;
      };
      const to = {[forward]: current + 1, [back]: current - 1, Home: 0, End: spans.length - 1,
                  ArrowDown: stepAt(1), ArrowUp: stepAt(-1)}[event.key];
      if (to === undefined) return;
      event.preventDefault();
      go(to);
    });
    const list = make("details", "steps", make("summary", "", "Steps in a table"));
    list.addEventListener("toggle", () => { if (list.open && !list.table) list.append(list.table = drawSteps(trace)); });
    box.append(detail, list);
    return box;
  }

  function drawSteps(trace) {
    const cellsOf = (first, end) => trace.cells.filter((cell) => cell.end >= first && cell.end < end).map((cell) => cell.text).join("");
    const head = make("tr");
    for (const name of ["Step", "Kept", "Thrown away", "The target's own", "Drafted", "Kept"]) {
      const cell = make("th", "", name === "Kept" && head.children.length === 1 ? "Kept drafts" : name);
      cell.scope = "col";
      head.append(cell);
    }
    const rows = trace.steps.map((step) => {
      const own = step.begin + step.kept;
      const gone = step.gone || (step.drafted > step.kept ? `\u2026${step.drafted - step.kept}` : "");
      const first = make("th", "", String(step.number + 1));
      first.scope = "row";
      const texts = [cellsOf(step.begin, own), gone, step.own ? cellsOf(own, own + 1) : ""];
      return make("tr", "", first, ...texts.map((text) => make("td", "text", bdi(text))),
                  make("td", "", String(step.drafted)), make("td", "", String(step.kept)));
    });
    const wide = make("div", "wide", make("table", "numbers", make("thead", "", head), make("tbody", "", ...rows)));
    wide.tabIndex = 0;
    wide.setAttribute("role", "region");
    wide.setAttribute("aria-label", "Steps");
    return wide;
  }

  // ---------------------------------------------------------------- requests and groups
  const saidOf = (trace) => {
    const parts = [trace.f ? "failed" : trace.k.length ? `${rate(trace).toFixed(2)} tokens a step` : plural(trace.n, "token")];
    if (trace.s) parts.push(`${trace.s.toFixed(2)}\u00d7 the speed without a drafter`);
    if (trace.e === "length") parts.push("ends at its limit");
    if (trace.q) parts.push("differs from plain");
    return parts.join(", ");
  };
  const drawn = new Set();
  function drawRequest(request, withGroup) {
    const said = compares ? request.t.map((trace) => trace.f ? "failed" : rate(trace).toFixed(2)).join(" against ") + " tokens a step" : saidOf(request.t[0]);
    const summary = make("summary", "", bdi(request.i), " ", make("span", "muted", withGroup ? bdi(data.groups[request.g]) : "", withGroup ? ", " : "", said));
    const box = make("details", "request", summary);
    box.addEventListener("toggle", () => {
      if (!box.open || box.traces) return;
      box.traces = request.t.map((trace, number) => drawTrace(trace, compares ? request.t[number ? 0 : 1] : null, compares ? data.runs[number] : "", data.langs?.[request.g]));
      box.append(...box.traces);
      for (const each of box.traces) {
        each.recolour?.();
        drawn.add(each);
      }
    });
    return box;
  }

  function fill(holder, requests, withGroup) {
    let shown = 0;
    const button = make("button", "more");
    button.type = "button";
    const next = () => {
      const some = requests.slice(shown, shown + CHUNK).map((each) => drawRequest(each, withGroup));
      button.before(...some);
      const first = some[0]?.querySelector("summary");
      if (shown) first?.focus();
      shown += some.length;
      button.hidden = shown >= requests.length;
      button.textContent = `Show ${Math.min(CHUNK, requests.length - shown)} more of ${requests.length - shown}`;
    };
    button.addEventListener("click", next);
    holder.append(button);
    next();
  }

  const any = (test) => (request) => request.t.some(test);
  const FILTERS = [
    ["all requests", () => true],
    ["slower than without a drafter", any((trace) => trace.s && trace.s < 1)],
    ["failed", any((trace) => trace.f)],
    ["differs from plain decoding", any((trace) => trace.q)],
    ["ends at its length limit", any((trace) => trace.e === "length")],
    ...(compares ? [["different in text or number of steps", isDifferent]] : []),
  ].map(([name, test]) => ({name, found: data.requests.filter(test)})).filter((each, number) => !number || each.found.length);

  const choice = (label, names) => {
    const select = make("select");
    names.forEach((name, number) => select.append(new Option(name, number)));
    return [make("label", "", `${label} `, select), select];
  };
  const check = (label, isOn, kind) => {
    const box = make("input");
    box.type = "checkbox";
    box.checked = isOn;
    box.addEventListener("change", () => {
      place.classList.toggle(kind, box.checked !== isOn);
      for (const each of drawn) each.recolour?.();
    });
    return make("label", "", box, ` ${label}`);
  };
  const [filterLabel, filter] = choice("Show", FILTERS.map((each) => `${each.name} (${each.found.length.toLocaleString("en")})`));
  const [orderLabel, order] = choice("in order of", ["group, slowest first", "group, fastest first", "speed, slowest first", "speed, fastest first"]);
  const status = make("output");
  const holder = make("div", "list");

  function draw() {
    const requests = [...FILTERS[filter.value].found], sign = order.value % 2 ? -1 : 1;
    requests.sort((a, b) => sign * (slowest(a) - slowest(b)));
    drawn.clear();
    holder.replaceChildren();
    status.textContent = requests.length < data.requests.length ? `${requests.length.toLocaleString("en")} of ${plural(data.requests.length, "request")}` : "";
    if (order.value >= 2) {
      fill(holder, requests, true);
      return;
    }
    const groups = new Map();
    for (const request of requests) groups.set(request.g, [...(groups.get(request.g) ?? []), request]);
    const rateOf = (some) => data.runs.map((_, run) => {
      const traces = some.map((request) => request.t[run]).filter((trace) => trace && !trace.f && trace.k.length);
      return traces.length ? sum(traces.map((trace) => trace.n)) / sum(traces.map((trace) => trace.k.length)) : NaN;
    });
    const rows = [...groups].map(([group, some]) => ({group, some, rates: rateOf(some)}));
    rows.sort((a, b) => sign * ((a.rates[0] || 0) - (b.rates[0] || 0)));
    for (const {group, some, rates} of rows) {
      const known = rates.some((each) => !Number.isNaN(each));
      const said = `${plural(some.length, "request")}${known ? `, ${rates.map((each) => each.toFixed(2)).join(" against ")} tokens a step` : ""}`;
      const box = make("details", "group", make("summary", "", bdi(data.groups[group]), " ", make("span", "muted", said)));
      box.addEventListener("toggle", () => {
        if (box.open && !box.filled) {
          box.filled = true;
          fill(box, some, false);
        }
      });
      holder.append(box);
    }
  }
  for (const select of [filter, order]) select.addEventListener("change", draw);
  const tools = make("div", "tools", filterLabel, orderLabel, check("what was thrown away", true, "no-gone"));
  if (compares) tools.append(check("different only", false, "different-only"));
  tools.append(status);
  place.append(tools, holder);
  draw();
}
