// What pages do beyond links and forms: live numbers from one stream, charts, small comforts.
// Everything works without this file; texts and numbers are made by the server.
(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // --- Charts -------------------------------------------------------------------------------
  const charts = new Map();

  const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  function size(bytes) {
    let power = 0;
    while (bytes >= 1024 && power < UNITS.length - 1) {
      bytes /= 1024;
      power += 1;
    }
    return `${bytes >= 100 || power === 0 ? Math.round(bytes) : bytes.toPrecision(3)} ${UNITS[power]}`;
  }

  // The steps of an axis of bytes: powers of two and their halves, so that labels are round.
  const STEPS = Array.from({ length: 56 }, (_, at) => 2 ** at);

  // The steps of an axis of time, in seconds or periods: what is labelled is a whole one.
  const HOUR = 3600;
  const DAY = 24 * HOUR;
  const MARKS = {
    second: [1, 2, 5, 10, 15, 30, 60, 120, 300, 600],
    hour: [HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY],
    day: [1, 2, 3, 4, 7, 14, 28].map((days) => days * DAY),
    period: [1, 2, 3, 4, 6, 12, 24, 50, 100, 1000],
  };

  // A zone that this browser does not know must not keep the page from being live.
  function known(zone) {
    try {
      new Intl.DateTimeFormat("en", { timeZone: zone });
      return zone;
    } catch {
      return "UTC";
    }
  }

  // What a point of time is called. Periods have their names from the server.
  function stamp(spec) {
    const base = { timeZone: spec.zone, hourCycle: "h23" };
    const forms = {
      second: { hour: "2-digit", minute: "2-digit", second: "2-digit" },
      hour: { month: "numeric", day: "numeric", hour: "2-digit", minute: "2-digit" },
      day: { month: "numeric", day: "numeric" },
    };
    const format = new Intl.DateTimeFormat(spec.lang, { ...base, ...forms[spec.by] });
    return (seconds) => format.format(seconds * 1000);
  }

  // The text under the chart: what the pointer is at.
  function readout(box, spec, data, at) {
    const out = box.querySelector("[data-readout]");
    if (!out) return;
    if (at == null) {
      out.textContent = "";
      return;
    }
    const suffix = spec.rate ? "/s" : "";
    const value = (row) => (data[row][at] == null ? "–" : size(data[row][at]) + suffix);
    out.textContent = `${spec.names?.[at] ?? stamp(spec)(data[0][at])}  ↓ ${value(1)}  ↑ ${value(2)}`;
  }

  // The width of a bar's place, in seconds or periods; half of it stands beside the first and the last bar,
  // so that none is cut.
  const WIDTHS = { hour: HOUR, day: DAY, period: 1 };

  function draw(box) {
    const spec = JSON.parse(box.querySelector("script[type='application/json']").textContent);
    spec.zone = known(spec.zone);
    const plot = box.querySelector("[data-plot]");
    const bars = !spec.rate && uPlot.paths.bars({ size: [0.8, 64], gap: 1 });
    const series = (label, colour) => ({
      label,
      stroke: css(colour),
      fill: spec.rate ? `${css(colour)}22` : css(colour),
      width: spec.rate ? 1.5 : 0,
      paths: bars || undefined,
      points: { show: false },
    });
    const axis = { stroke: css("--bm-muted"), grid: { stroke: css("--bm-line"), width: 1 }, ticks: { show: false } };
    // Bars of both directions stand on each other: the taller one is the sum, behind the upload. Periods
    // have one place each, however long they are.
    const periods = spec.by === "period";
    const places = (times) => (periods ? times.map((_, at) => at) : times);
    const rows = ([times, down, up]) =>
      spec.rate ? [times, down, up] : [places(times), down.map((it, at) => it + up[at]), up];
    const label = periods ? (at) => spec.names[at] ?? "" : stamp(spec);
    const x = { time: !periods };
    const space = periods ? 170 : 90;
    const values = (_, marks) => marks.map(label);
    const time = { ...axis, values, incrs: MARKS[spec.by], space, size: 28, grid: { show: false } };
    if (bars) {
      const [half, at] = [WIDTHS[spec.by] / 2, places(spec.data[0])];
      x.range = () => [(at[0] ?? 0) - half, (at.at(-1) ?? 0) + half];
    }
    let data = spec.data;
    const options = {
      width: plot.clientWidth,
      height: Number(plot.dataset.height) || 200,
      legend: { show: false },
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), spec.zone),
      cursor: { y: false, points: { show: spec.rate === true } },
      // Half a label has room after the last point.
      padding: [null, 36, null, null],
      scales: { x, y: { range: (_, __, max) => [0, Math.max(max, 1024) * 1.05] } },
      axes: [
        time,
        { ...axis, values: (_, marks) => marks.map((it) => size(it) + (spec.rate ? "/s" : "")), incrs: STEPS, size: 84 },
      ],
      series: [{}, series("down", "--bm-down"), series("up", "--bm-up")],
      hooks: { setCursor: [(it) => readout(box, spec, data, it.cursor.idx)] },
    };
    const chart = new uPlot(options, rows(data), plot);
    new ResizeObserver(() => chart.setSize({ width: plot.clientWidth, height: options.height })).observe(plot);
    const add = (point) => {
      // Times only grow: after the clock was set back, what it said before goes.
      const past = data[0].filter((time) => time < point[0]).length;
      data = data.map((row, at) => [...row.slice(0, past), point[at]].slice(-spec.keep));
      chart.setData(rows(data));
    };
    return { add, end: () => chart.destroy() };
  }

  function drawAll() {
    for (const [box, chart] of charts) {
      if (!box.isConnected) {
        chart.end();
        charts.delete(box);
      }
    }
    if (typeof uPlot === "undefined") return;
    for (const box of all("[data-chart]")) {
      if (!charts.has(box)) charts.set(box, draw(box));
    }
  }

  // --- Live numbers -------------------------------------------------------------------------
  let stream = null;
  let streamUrl = null;
  let refreshed = 0;

  function put(element, value) {
    if (element.tagName === "PROGRESS") {
      // Without a quota there is no bar.
      element.hidden = value === null;
      element.value = value?.percent ?? 0;
      element.className = value?.level ?? "";
    } else if (typeof value === "object") {
      element.textContent = value.text;
      if (value.state) element.dataset.state = value.state;
      if (value.title !== undefined) element.title = value.title;
      if (value.href) element.setAttribute("href", value.href);
      else if (element.tagName === "A") element.removeAttribute("href");
    } else {
      element.textContent = value;
    }
  }

  function show(message) {
    for (const [key, value] of Object.entries(message.set || {})) {
      for (const element of all(`[data-live="${CSS.escape(key)}"]`)) put(element, value);
    }
    if (message.point) {
      for (const [box, chart] of charts) if (box.dataset.chart === "live") chart.add(message.point);
    }
    if (message.say) document.getElementById("live-say").textContent = message.say;
    if (message.renew) for (const part of all("[data-renew]")) htmx.trigger(part, "renew");
    if (message.health) for (const part of all("[data-health]")) htmx.trigger(part, "health");
    if (message.refresh && Date.now() - refreshed > 4000) {
      refreshed = Date.now();
      for (const part of all("[data-refresh]")) htmx.trigger(part, "refresh");
    }
  }

  function listen() {
    const holder = document.querySelector("[data-stream]");
    const url = holder && !document.hidden ? holder.dataset.stream : null;
    if (url === streamUrl) return;
    if (stream) stream.close();
    stream = null;
    streamUrl = url;
    if (!url) return;
    stream = new EventSource(url);
    stream.onmessage = (event) => {
      document.documentElement.dataset.live = "on";
      show(JSON.parse(event.data));
    };
    stream.onerror = () => {
      document.documentElement.dataset.live = "off";
      // A refused stream is not opened again by the browser: the session may be over.
      if (stream && stream.readyState === EventSource.CLOSED) setTimeout(() => listen((streamUrl = null)), 15000);
    };
  }

  // --- Small comforts -----------------------------------------------------------------------
  function chosen(form) {
    const boxes = all("input[name='user']", form);
    const count = boxes.filter((it) => it.checked).length;
    for (const bar of all("[data-bulk]", form)) bar.dataset.count = count;
    for (const out of all("[data-chosen]", form)) out.textContent = count;
    for (const whole of all("[data-all]", form)) {
      whole.checked = count > 0 && count === boxes.length;
      whole.indeterminate = count > 0 && count < boxes.length;
    }
  }

  document.addEventListener("change", (event) => {
    const target = event.target;
    if (target.matches("[data-all]")) {
      for (const it of all("input[name='user']", target.form)) it.checked = target.checked;
    }
    if (target.form && (target.name === "user" || target.matches("[data-all]"))) chosen(target.form);
    if (target.matches("[data-submit]")) target.form.requestSubmit();
    if (target.matches("[data-shows]")) reveal(target);
  });

  // Fields that only matter for one choice of a list.
  function reveal(select) {
    for (const part of all(`[data-for="${CSS.escape(select.name)}"]`, select.form)) {
      part.hidden = !part.dataset.when.split(" ").includes(select.value);
    }
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      // There is no clipboard without https: the marked text is copied, or at least a key press copies it.
      getSelection().selectAllChildren(source);
      if (!document.execCommand("copy")) return;
    }
    button.dataset.done = "";
    document.getElementById("live-say").textContent = button.dataset.copied || "";
    setTimeout(() => delete button.dataset.done, 2000);
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest("input, textarea, select")) {
      const search = document.querySelector("input[type='search']");
      if (search) {
        event.preventDefault();
        search.focus();
      }
    }
  });

  function begin() {
    // The answer to a form is not asked for again: who comes back to it sees what it was about.
    const place = document.querySelector("[data-place]");
    if (place) history.replaceState(history.state, "", place.dataset.place);
    drawAll();
    listen();
    for (const select of all("[data-shows]")) reveal(select);
    for (const form of all("form[data-choose]")) chosen(form);
  }

  document.documentElement.classList.add("js");
  document.addEventListener("visibilitychange", listen);
  document.addEventListener("htmx:afterSettle", begin);
  window.addEventListener("pageshow", begin);
  // What is swapped in later keeps the title of the page; an error answer is shown as a page.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.xhr.status === 401 || event.detail.xhr.status >= 500) location.reload();
  });
})();
