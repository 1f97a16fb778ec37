"use strict";
const $ = id => document.getElementById(id);
const raw = text => {
  const s = atob(text),
    b = new Uint8Array(s.length);
  for (let i = 0; i < s.length; i++) b[i] = s.charCodeAt(i);
  return b;
}; // ten times as fast as Uint8Array.from
const unpack = id =>
  new Response(
    new Blob([raw($(id).textContent)]).stream().pipeThrough(new DecompressionStream("gzip")),
  ).text();
(async () => {
  const plotly = unpack("plotly"),
    D = JSON.parse(await unpack("data")); // the table is drawn while the browser unpacks Plotly
  const node = (tag, text, cls) => {
    const n = document.createElement(tag);
    if (text != null) n.textContent = text;
    if (cls) n.className = cls;
    return n;
  };
  const count = n =>
    n == null
      ? "–"
      : n >= 1e9
        ? (n / 1e9).toPrecision(3) + "G"
        : n >= 1e6
          ? (n / 1e6).toPrecision(3) + "M"
          : n >= 1e3
            ? (n / 1e3).toPrecision(3) + "k"
            : String(n);
  const bytes = n =>
    n >= 1e6 ? (n / 1e6).toPrecision(3) + " MB" : (n / 1e3).toPrecision(3) + " kB";
  const num = (v, d) => (v == null ? "–" : v.toFixed(d)),
    percent = v => (v == null ? "–" : (100 * v).toFixed(1) + " %");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colors = ["#0b6e99", "#d9730d", "#448361", "#9065b0", "#c4554d", "#937264"];
  const targets = [...new Set(D.rows.map(r => r.target))],
    color = t => colors[targets.indexOf(t) % colors.length];
  let theme = {}; // asking for a style makes the browser lay out anew what was drawn meanwhile
  const style = n =>
    (theme[n] ??= getComputedStyle(document.documentElement).getPropertyValue(n).trim());
  const layout = (x, y, more) =>
    Object.assign(
      {
        margin: { l: 56, r: 12, t: 40, b: 48 },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: style("--ink"), size: 12 },
        xaxis: Object.assign(
          {
            title: { text: x },
            gridcolor: style("--line"),
            zerolinecolor: style("--line"),
            automargin: true,
          },
          (more || {}).x,
        ),
        yaxis: Object.assign(
          {
            title: { text: y, standoff: 8 },
            gridcolor: style("--line"),
            zerolinecolor: style("--line"),
            automargin: true,
          },
          (more || {}).y,
        ),
        legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
        hovermode: "closest",
      },
      (more || {}).all,
    );
  const options = { responsive: true, displaylogo: false, displayModeBar: false };

  const axes = {
    ms: ["latency in ms", 1],
    size_bytes: ["file in kB", 1000],
    macs: ["multiply-adds in millions", 1e6],
    params: ["parameters in thousands", 1000],
    peak_mib: ["most memory with the runtime, MiB", 1],
  };
  const score = (r, y) => (y === "metric" ? r.metric : r.more[y]);
  // the more of it, the better, though of some metrics less is
  const merit = (r, y) => (D.less.includes(y) ? -1 : 1) * score(r, y);
  // latencies of different machines are not compared, sizes are
  const task = (r, x) => [r.model, r.data, r.kind, r.size, x === "ms" ? r.machine : ""].join("\n"),
    tasks = (rows, x) =>
      [...new Set(rows.map(r => task(r, x)))].map(name => rows.filter(r => task(r, x) === name));
  // what no other beats: one with a better score and no more of x, or with as good a score and surely less of x; with
  // latency, only what lies below the other's interval is surely less. From the best score down, so that 500 runs stay quick
  function front(rows, x, y) {
    const known = rows
        .filter(r => r[x] != null && score(r, y) != null && !(x === "ms" && r.wide))
        .sort((a, b) => merit(b, y) - merit(a, y)),
      best = new Set();
    const [low, high] = x === "ms" ? ["low_ms", "high_ms"] : [x, x];
    let above = Infinity,
      surely = Infinity;
    for (let i = 0, next; i < known.length; i = next) {
      for (next = i; next < known.length && score(known[next], y) === score(known[i], y); next++)
        if (known[next][high] < surely) surely = known[next][high];
      const level = known.slice(i, next);
      for (const r of level) if (!(above <= r[x] || surely < r[low])) best.add(r);
      above = Math.min(above, ...level.map(r => r[x]));
    }
    return best;
  }
  const MANY = 200; // points of which only those on the front show their intervals: those of all would hide one another, and take time
  function pareto(id, x, y) {
    const traces = [],
      [label, scale] = axes[x],
      rows = visible();
    for (const t of targets) {
      const some = rows.filter(r => r.target === t && r[x] != null && score(r, y) != null),
        own = some.filter(r => !r.reference),
        ref = some.filter(r => r.reference),
        fronts = tasks(some, x).map(rows => front(rows, x, y)),
        best = new Set(fronts.flatMap(f => [...f]));
      const hover = r =>
        (r.reference ? "uncompressed" : r.recipe.replace(/ \| /g, "<br>| ")) +
        "<br>" +
        t +
        (r.seed ? ", seed " + r.seed : "") +
        "<br>" +
        named(y) +
        " " +
        num(score(r, y), 4) +
        "<br>" +
        label +
        " " +
        (r[x] / scale).toPrecision(4) +
        (x === "ms"
          ? ` (${num(r.low_ms, 3)} to ${num(r.high_ms, 3)})` +
            (r.wide ? "<br>not measured well" : "")
          : "") +
        (r.fused ? "<br>in integers " + r.fused : "");
      const bars = some =>
        x === "ms"
          ? {
              type: "data",
              symmetric: false,
              array: some.map(r => r.high_ms - r.ms),
              arrayminus: some.map(r => r.ms - r.low_ms),
              thickness: 1,
              width: 0,
              color: color(t),
            }
          : { visible: false };
      for (const line of fronts.map(f => [...f].sort((a, b) => a[x] - b[x])))
        traces.push({
          x: line.map(r => r[x] / scale),
          y: line.map(r => score(r, y)),
          mode: "lines",
          line: { color: color(t), width: 1, dash: "dot", shape: "hv" },
          hoverinfo: "skip",
          showlegend: false,
        });
      traces.push({
        x: own.map(r => r[x] / scale),
        y: own.map(r => score(r, y)),
        error_x: own.length > MANY ? { visible: false } : bars(own),
        customdata: own.map(r => r.key),
        text: own.map(hover),
        hoverinfo: "text",
        mode: "markers",
        name: t,
        marker: {
          size: own.map(r => (best.has(r) ? 15 : 10) - 3 * (targets.indexOf(t) % 3)),
          symbol: own.map(r => (x === "ms" && r.wide ? "x-thin-open" : "circle")),
          color: color(t),
          line: {
            width: own.map(r => (r.key === chosen ? 3 : x === "ms" && r.wide ? 2 : 0)),
            color: own.map(r =>
              x === "ms" && r.wide && r.key !== chosen ? color(t) : style("--ink"),
            ),
          },
          opacity: 0.85,
        },
      });
      const ends = own.length > MANY && x === "ms" ? own.filter(r => best.has(r)) : [];
      traces.push({
        x: ends.map(r => r[x] / scale),
        y: ends.map(r => score(r, y)),
        error_x: bars(ends),
        mode: "markers",
        marker: { size: 1, color: color(t) },
        hoverinfo: "skip",
        showlegend: false,
      });
      traces.push({
        x: ref.map(r => r[x] / scale),
        y: ref.map(r => score(r, y)),
        error_x: bars(ref),
        text: ref.map(hover),
        hoverinfo: "text",
        mode: "markers",
        name: "uncompressed",
        legendgroup: "uncompressed",
        showlegend: !traces.some(o => o.legendgroup),
        marker: { size: 11, symbol: "diamond-open", color: color(t), line: { width: 2 } },
      });
    }
    const drawn = traces.filter(t => t.x.length),
      plot = $(id);
    $(id).setAttribute(
      "aria-label",
      `Chart: test ${named(y)} against ${label}, ${rows.filter(r => !r.reference).length} networks; the table below holds its numbers`,
    );
    if (!drawn.length) {
      if (plot._fullLayout) Plotly.purge(plot);
      plot.replaceChildren(
        node(
          "p",
          rows.length
            ? "Nothing was measured of this: give run a target with --to."
            : "Nothing fits what is chosen above.",
          "soft",
        ),
      );
      return;
    }
    if (!plot._fullLayout) plot.replaceChildren();
    const ys = drawn.flatMap(t => t.y),
      lo = Math.min(...ys),
      hi = Math.max(...ys),
      room = Math.max(0.005, (hi - lo) * 0.15);
    Plotly.react(
      id,
      drawn,
      layout(label, "test " + named(y), {
        x: { rangemode: "tozero" },
        y: {
          range: [
            lo < 0 ? lo - room : Math.max(0, lo - room),
            hi > 1 ? hi + room : Math.min(1, hi + room),
          ],
        },
      }),
      options,
    );
    plot.removeAllListeners("plotly_click");
    plot.on("plotly_click", e => {
      const k = e.points[0].customdata;
      if (k) choose(k);
    });
  }

  const title = name => name.replace(/^top(\d+)$/, "top-$1");
  // as the first word of a heading; mIoU and mAP stay
  const headed = text => (/[A-Z]/.test(text) ? text : text.charAt(0).toUpperCase() + text.slice(1));
  const named = y => (y === "metric" ? first : title(y));
  const first =
    [...new Set(D.rows.map(r => r.metric_name))].length === 1
      ? title(D.rows[0].metric_name)
      : "metric";
  const several = name =>
    new Set(D.rows.map(r => r[name])).size > 1 ? [[name, name, r => r[name], 1]] : [];
  const columns = [
    ["recipe", "recipe", r => r.recipe, 1],
    ...several("model"),
    ...several("data"),
    ...several("kind"),
    ...several("size"),
    ...several("machine"),
    ["seed", "seed", r => (r.seeds && r.seeds.length > 1 ? `${r.seeds.length} seeds` : r.seed)],
    ["runtime", "target", r => r.target, 1],
    [first, "metric", r => num(r.metric, 4) + (r.spread == null ? "" : " ± " + num(r.spread, 4))],
    ...D.scores.map(name => [title(name), "more." + name, r => num(r.more[name], 4)]),
    [
      "vs float",
      "gap",
      r =>
        r.metric == null || r.float_metric == null
          ? "–"
          : (r.metric - r.float_metric >= 0 ? "+" : "−") +
            Math.abs(r.metric - r.float_metric).toFixed(4),
    ],
    ["ms", "ms", r => num(r.ms, 3)],
    [
      "faster",
      "faster",
      r =>
        !r.ms
          ? "–"
          : r.disturbed
            ? "not measured well"
            : level(r)
              ? "level"
              : (r.float_ms / r.ms).toFixed(2) + "×",
    ],
    ["file", "size_bytes", r => bytes(r.size_bytes)],
    ["smaller", "smaller", r => (r.float_size_bytes / r.size_bytes).toFixed(2) + "×"],
    ["params", "params", r => count(r.params)],
    ["MACs", "macs", r => count(r.macs)],
    ["int8", "fused", r => r.fused || "–"],
    ["key", "key", r => r.key, 1],
  ];
  let by = "metric",
    down = true,
    chosen = Object.keys(D.runs)[0];
  const level = r =>
    r.level != null ? r.level : r.low_ms <= r.float_high_ms && r.float_low_ms <= r.high_ms;
  const wanted = { target: "", words: "", facets: {} };
  const fits = r =>
    (!wanted.target || r.target === wanted.target) &&
    (r.reference || r.recipe.toLowerCase().includes(wanted.words)) &&
    Object.entries(wanted.facets).every(([i, v]) => r.by[i] == null || r.by[i] === v);
  const visible = () => D.rows.filter(fits);
  // the rows of the table before any filter
  const listed = () =>
    D.means.length && $("means").checked ? D.means : D.rows.filter(r => !r.reference);
  function table() {
    const active = document.activeElement,
      at = active && $("table").contains(active) ? [active.tagName, active.dataset.id] : null;
    const t = $("table"),
      head = node("tr");
    t.replaceChildren(node("thead"), node("tbody"));
    for (const [name, key, , text] of columns) {
      const th = node("th", null, text ? "text" : ""),
        b = node("button", name + (by === key ? (down ? " ↓" : " ↑") : ""));
      b.dataset.id = key;
      b.onclick = () => {
        down = by === key ? !down : !text;
        by = key;
        table();
      };
      th.append(b);
      head.append(th);
    }
    t.tHead.append(head);
    const value = r =>
      by.startsWith("more.")
        ? r.more[by.slice(5)]
        : by === "gap"
          ? r.metric == null || r.float_metric == null
            ? null
            : r.metric - r.float_metric
          : by === "faster"
            ? r.ms && !r.disturbed
              ? r.float_ms / r.ms
              : null
            : by === "smaller"
              ? r.float_size_bytes / r.size_bytes
              : r[by];
    const rows = listed().filter(fits),
      marked = {};
    for (const x of ["ms", "size_bytes"])
      marked[x] = new Set(
        targets
          .flatMap(t =>
            tasks(visible().filter(r => r.target === t), x).flatMap(rows => [
              ...front(rows, x, $("y").value),
            ]),
          )
          .map(r => r.key + r.target),
      );
    $("shown").textContent =
      `${rows.length} of ${listed().length} rows`;
    for (const r of rows.sort((a, b) => {
      const x = value(a),
        y = value(b),
        c = x == null ? -1 : y == null ? 1 : x < y ? -1 : x > y ? 1 : 0;
      return down ? -c : c;
    })) {
      const tr = node("tr", null, "run" + ((r.keys || [r.key]).includes(chosen) ? " chosen" : ""));
      tr.tabIndex = 0;
      tr.dataset.id = r.key + r.target;
      tr.onclick = () => choose(r.key);
      tr.onkeydown = e => {
        if (e.key === "Enter") choose(r.key);
      };
      for (const [, key, text, isText] of columns) {
        const front = marked[key] && (r.keys || [r.key]).some(k => marked[key].has(k + r.target));
        const td = node(
          "td",
          null,
          (isText ? "text " : "") +
            (["recipe", "fused"].includes(key) ? key + " " : "") +
            (front ? "front" : ""),
        );
        td.append(key === "recipe" || key === "key" ? node("code", text(r)) : text(r));
        tr.append(td);
      }
      t.tBodies[0].append(tr);
    }
    const again = at && [...t.querySelectorAll(at[0])].find(n => n.dataset.id === at[1]);
    if (again) again.focus();
  }
  function grid(id, head, rows, texts) {
    const t = $(id);
    t.replaceChildren(node("thead"), node("tbody"));
    const tr = node("tr");
    head.forEach((h, i) => tr.append(node("th", h, i < texts ? "text" : "")));
    t.tHead.append(tr);
    for (const row of rows) {
      const line = node("tr");
      row.forEach((v, i) => line.append(node("td", v, i < texts ? "text recipe" : "")));
      t.tBodies[0].append(line);
    }
  }
  function choose(key) {
    if (D.runs[key]) {
      chosen = key;
      table();
      draw();
    }
  }
  let sought = 0; // which search is shown
  const powers = [...Array(12).keys()].map(k => 10 ** (k - 4)),
    ticks = powers.flatMap(p => [1, 2, 5].map(m => +(m * p).toPrecision(1))); // of logarithmic axes
  function search() {
    $("searchbox").hidden = !D.searches.length;
    if (!D.searches.length) return;
    const s = D.searches[sought],
      points = s.points.filter(p => p.x != null),
      symbol = p => (p.chosen ? "star" : p.fits ? "circle" : "x-thin-open");
    $("searchspace").textContent = s.space;
    $("searchsaid").textContent =
      `${s.points.length} recipes trained, ${s.stopped} stopped early, ${s.probes} more only measured, in ${num(s.minutes, 1)} minutes. ` +
      (s.met
        ? `Stars were chosen; crosses miss a limit. Metrics are on validation data.`
        : `None keeps the limits; the star comes nearest.`);
    const line = (limit, at) =>
      limit == null ? [] : [{ ...at(limit), type: "line", line: { color: style("--soft"), dash: "dot" } }];
    Plotly.react(
      "searched",
      [
        {
          x: points.map(p => p.x),
          y: points.map(p => p.y),
          text: points.map(p => wrapped(p.recipe) + (p.why ? "<br>" + p.why : "")),
          mode: "markers",
          name: "recipe, the later the darker",
          hovertemplate: "%{text}<br>%{y:.4g}, %{x:.4g}<extra></extra>",
          marker: {
            symbol: points.map(symbol),
            size: points.map(p => (p.chosen ? 17 : 9)),
            color: points.map((p, i) => (p.chosen ? points.length : i)),
            colorscale: [[0, "#b6c2cf"], [1, colors[0]]],
            line: { width: 2, color: points.map((_, i) => (i + 1 > points.length / 2 ? colors[0] : "#8fa1b3")) },
          },
        },
        {
          x: [s.reference[0]],
          y: [s.reference[1]],
          mode: "markers",
          name: "uncompressed",
          marker: { symbol: "diamond", size: 11, color: colors[1] },
        },
      ],
      layout(s.label, s.metric + ", validation", {
        x: s.wide ? { type: "log", tickvals: ticks, ticktext: ticks.map(String) } : {},
        all: {
          shapes: [
            ...line(s.limits[s.metric], v => ({ xref: "paper", x0: 0, x1: 1, y0: v, y1: v })),
            ...line(s.limits[s.cost], v => ({ yref: "paper", y0: 0, y1: 1, x0: v, x1: v })),
          ],
        },
      }),
      options,
    );
    $("bettered").hidden = !s.aim || !s.best.length;
    if (!$("bettered").hidden) {
      const last = [s.minutes, s.best[s.best.length - 1][1]];
      Plotly.react(
        "bettered",
        [
          {
            x: [...s.best, last].map(p => p[0]),
            y: [...s.best, last].map(p => p[1]),
            mode: "lines+markers",
            line: { shape: "hv", color: colors[0] },
          },
        ],
        layout("minutes", "", {
          x: { rangemode: "tozero" },
          y: { rangemode: s.best.length > 1 ? "normal" : "tozero" }, // one value spans no range
          all: { title: { text: "best so far: " + s.aim, font: { size: 13 } } },
        }),
        options,
      );
    }
    const names = Object.keys(s.importances).reverse();
    $("mattered").hidden = !names.length;
    if (names.length)
      Plotly.react(
        "mattered",
        [
          {
            x: names.map(n => s.importances[n]),
            y: names,
            type: "bar",
            orientation: "h",
            marker: { color: colors[0] },
          },
        ],
        layout("", "", {
          x: { tickformat: ".0%", range: [0, 1] },
          y: { automargin: true },
          all: { title: { text: `what ${s.metric} varies by (fANOVA)`, font: { size: 13 } } },
        }),
        options,
      );
    const order = [...s.points].sort((a, b) => b.chosen - a.chosen || b.fits - a.fits || b.y - a.y);
    grid(
      "whynot",
      ["recipe", s.metric, s.label, ""],
      order.map(p => [p.recipe, num(p.y, 4), p.cost, p.chosen ? "chosen" : p.why]),
      1,
    );
  }
  const wrapped = text => text.replaceAll(" | ", "<br>| ");
  D.searches.forEach((s, i) => {
    const one = node("option", s.want);
    one.value = i;
    $("search").append(one);
  });
  $("search").onchange = () => {
    sought = +$("search").value;
    search();
  };
  function draw() {
    $("pick").value = chosen;
    plots();
    search();
    const run = { ...D.runs[chosen], chain: D.runs[chosen].chain.map(k => D.steps[k]) };
    $("recipe").textContent = run.recipe || "the network as given";
    const first = s => Object.values(s)[0];
    grid(
      "steps",
      ["step", "validation", "test", "params", "MACs", "seconds"],
      run.chain.map(c => [
        c.step || "as given",
        num(first(c.scores.valid), 4),
        num(first(c.scores.test), 4),
        count(c.params),
        count(c.macs),
        num(c.seconds, 0),
      ]),
      1,
    );
    proved(run);
    answered(D.answers.networks[run.uncompressed], D.answers.files[chosen] || {});
    const said = [...run.sizes, ...(run.task.notes || []), ...run.notes];
    said.push(...run.chain.flatMap(c => c.notes));
    for (const [t, f] of Object.entries(run.targets))
      if (f.not_fused.length) said.push(`${t}: not in integers: ${f.not_fused.join(", ")}`);
    $("said").replaceChildren(...said.map(s => node("p", s)));
    learned(run);
    const before = D.uncompressed[run.uncompressed],
      was = l => before[l.name] || l,
      isNorm = l => l.kind.includes("BatchNorm"),
      rows = run.layers.filter(l => l.outputs != null && !l.kind.includes("Norm"));
    // the batch-norms that stand behind a layer, which share its row
    const normsOf = l => {
      const after = run.layers.slice(run.layers.indexOf(l) + 1);
      const end = after.findIndex(m => !isNorm(m));
      return end < 0 ? after : after.slice(0, end);
    };
    const withNorms = (l, what, of = m => m) =>
      [l, ...normsOf(l)].reduce((sum, m) => sum + (of(m)[what] || 0), 0);
    Plotly.react(
      "channels",
      [
        {
          x: rows.map(l => l.name),
          y: rows.map(l => was(l).outputs),
          type: "bar",
          name: "before",
          marker: { color: "#b6c2cf" },
        },
        {
          x: rows.map(l => l.name),
          y: rows.map(l => l.outputs),
          type: "bar",
          name: "after",
          marker: { color: colors[0] },
        },
      ],
      layout("", "channels", {
        x: { tickangle: -60, tickfont: { size: 9 } },
        all: { barmode: "overlay" },
      }),
      options,
    );
    const priced = run.chain.filter(c => c.sparsified),
      last = priced.length ? priced[priced.length - 1].sparsified : null;
    $("pricedbox").hidden = !last;
    $("sensitivebox").hidden = !(run.inspection && run.inspection.sensitivity);
    if (last) {
      const at = last.before.map((_, i) => (last.top * (i + 0.5)) / last.before.length);
      Plotly.react(
        "priced",
        [
          ["before", "#b6c2cf"],
          ["after", colors[0]],
        ].map(([name, c]) => ({
          x: at,
          y: last[name],
          name,
          type: "bar",
          opacity: 0.75,
          marker: { color: c },
        })),
        layout(last.of, "channels", { all: { barmode: "overlay", bargap: 0 } }),
        options,
      );
    }
    if (!$("sensitivebox").hidden) {
      const s = run.inspection.sensitivity,
        names = Object.keys(s.groups);
      Plotly.react(
        "sensitive",
        [
          {
            type: "heatmap",
            x: s.amounts.map(a => "−" + a * 100 + " %"),
            y: names,
            z: names.map(n => s.groups[n]),
            text: names.map(n => s.groups[n].map(v => num(v, 3))),
            texttemplate: "%{text}",
            colorscale: "Viridis",
            zmin: 0,
            zmax: s.score,
            colorbar: { title: { text: "top-1" }, thickness: 12 },
          },
        ],
        layout("share of the group zeroed, ranked by " + run.inspection.by, "", {
          y: { autorange: "reversed" },
        }),
        options,
      );
    }
    $("zerosbox").hidden = !run.zeros;
    if (run.zeros) {
      $("zerosaid").replaceChildren(...run.zeros.said.map(s => node("p", s)));
      grid(
        "zeros",
        ["layer", "weights", "zeros", "share"],
        run.zeros.layers.map(l => [l.name, count(l.weights), count(l.zeros), percent(l.sparsity)]),
        1,
      );
    }
    explained(run.explanation, title(Object.keys(run.chain[run.chain.length - 1].scores.test)[0]));
    times(run.targets);
    grid(
      "layers",
      [
        "layer",
        "kind",
        "bits of weights/inputs",
        "channels",
        "before",
        "params",
        "before",
        "MACs",
        "before",
      ],
      run.layers
        .filter(l => !isNorm(l))
        .map(l => [
          l.name,
          l.kind +
            normsOf(l)
              .map(m => ` + ${m.name}`)
              .join(""),
          l.bits || "–",
          count(l.outputs),
          count(was(l).outputs),
          count(withNorms(l, "params")),
          count(withNorms(l, "params", was)),
          count(l.macs),
          count(was(l).macs),
        ]),
      2,
    );
  }
  // what each gate compares, in words
  const GATES = {
    "folded = unfolded": "batch-norm folded = separate",
    "sliced = masked": "channels removed = set to zero",
    "dropped = bypassed": "blocks removed = run and bypassed",
    "zeros = chosen": "weights at zero besides those chosen",
    "masked = zeroed": "masked = weights set to zero",
    "equalized = unequalized": "equalized = as before",
    "reloaded = saved": "read from disk = as it was written",
    "values beyond the limit": "values of a codebook beyond the limit",
    "exported = PyTorch": "file = PyTorch",
    "artefact = simulated (rms)": "file in integers = simulation, root mean square",
    "artefact = simulated, from float (rms)":
      "file in integers as near to the float network as its simulation, root mean square",
  };
  function proved(run) {
    const row = (where, g) => [
      where,
      GATES[g.name] || g.name,
      g.difference ? g.difference.toExponential(1) : "0",
      g.tolerance ? String(g.tolerance) : "none",
    ];
    const rows = run.chain.flatMap(c => c.gates.map(g => row(c.step || "as given", g)));
    for (const [t, f] of Object.entries(run.targets)) rows.push(...f.gates.map(g => row(t, g)));
    $("gatesbox").hidden = !rows.length;
    grid("gates", ["step or runtime", "compared", "difference", "allowed"], rows, 2);
  }
  // the same test samples in columns, and in rows the truth and who answers what
  function answered(network, files) {
    const own = network ? network.rows : {};
    const rows = [
      ["Truth", "", own.truth],
      ["Uncompressed", "in PyTorch", own.network],
      ...targets.filter(t => files[t]).map(t => ["This run", `in ${t}`, files[t].row]),
    ].filter(([, , cells]) => cells);
    $("samplesbox").hidden = !rows.length;
    if (!rows.length) return;
    $("samples").replaceChildren(...rows.map(answerRow));
    const cells = rows.flatMap(([, , row]) => row);
    const said = ["Test samples, evenly spread over the test set and the same ones in every run."];
    if (cells.some(c => c.wrong != null)) said.push("✓ as the truth, ✗ not as the truth.");
    const metric = D.rows.find(r => r.key === chosen)?.metric_name;
    if (cells.some(c => c.caption.startsWith(metric + " ")))
      said.push(`${metric} is that of the one sample.`);
    $("samplessaid").textContent = said.join(" ");
    const colours = Object.assign({}, ...[network, ...Object.values(files)].map(f => f && f.colours));
    $("samplescolours").replaceChildren(...Object.entries(colours).map(swatch));
    $("samplesleft").hidden = !cells.some(c => c.drawn && c.picture == null);
    $("samplesleft").textContent =
      `This page holds the pictures of the best runs; lissom report ${chosen} shows those of this one.`;
  }
  function answerRow([whose, where, cells]) {
    const tr = node("tr"),
      head = node("th", whose);
    head.scope = "row";
    if (where) head.append(node("small", where));
    tr.append(head);
    cells.forEach((cell, i) => {
      const td = node("td"),
        picture = D.answers.pictures[cell.picture];
      if (picture) {
        const img = node("img");
        img.src = "data:image/jpeg;base64," + picture.base64;
        img.width = picture.width;
        img.height = picture.height;
        img.alt = `Sample ${i + 1}, ${whose} ${where}: ${cell.caption || "a picture"}`;
        td.append(img);
      }
      const mark = cell.wrong == null ? "" : cell.wrong ? "✗ " : "✓ ";
      if (cell.caption) td.append(node("div", mark + cell.caption, cell.wrong ? "worst" : ""));
      tr.append(td);
    });
    return tr;
  }
  function swatch([name, colour]) {
    const item = node("li"),
      box = node("i");
    box.style.background = colour;
    item.append(box, name);
    return item;
  }
  function learned(run) {
    const loss = [],
      top = [],
      x = [];
    let n = 0;
    const marks = [];
    for (const c of run.chain) {
      if (c.log.length) marks.push({ x: n + 0.5, text: c.step });
      for (const row of c.log) {
        n += 1;
        x.push(n);
        loss.push(row.loss);
        top.push(row.top1);
      }
    }
    if (n < 2) {
      if ($("curves")._fullLayout) Plotly.purge("curves");
      const only = loss.length
        ? `One epoch: loss ${num(loss[0], 4)}`
        : "No step of this run learned";
      const seen = top[0] == null ? "" : `, training top-1 ${num(top[0], 4)}`;
      $("curves").replaceChildren(node("p", `${only}${seen}.`, "soft"));
      return;
    }
    if (!$("curves")._fullLayout) $("curves").replaceChildren();
    const style = (k) => ({ x, mode: "lines+markers", line: { color: colors[k] } });
    const classes = top.some((v) => v != null); // other kinds of task learn by their loss only
    const lines = classes
      ? [
          { ...style(0), y: top, name: "training top-1" },
          { ...style(1), y: loss, name: "loss", yaxis: "y2" },
        ]
      : [{ ...style(1), y: loss, name: "loss" }];
    Plotly.react(
      "curves",
      lines,
      layout("epoch, all steps in a row", classes ? "top-1" : "loss", {
        y: { rangemode: "tozero", range: classes ? [0, 1.02] : undefined },
        x: { tick0: 1, dtick: Math.max(1, Math.ceil(n / 12)), range: [0.5, n + 0.5] },
        all: {
          margin: { l: 56, r: 12, t: 76, b: 48 },
          legend: { orientation: "h", x: 0, y: 1, yref: "container", yanchor: "top" },
          ...(classes && {
            yaxis2: {
              title: { text: "loss" },
              overlaying: "y",
              side: "right",
              showgrid: false,
              automargin: true,
              rangemode: "tozero",
              tickmode: "auto",
            },
          }),
          shapes: marks.map(m => ({
            type: "line",
            x0: m.x,
            x1: m.x,
            y0: 0,
            y1: 1,
            yref: "paper",
            line: { dash: "dot", width: 1, color: "#8a94a3" },
          })),
          annotations: marks.map((m, i) => ({
            x: m.x,
            y: 1.01 + 0.06 * (i % 2),
            yref: "paper",
            yanchor: "bottom",
            text: m.text.split("(")[0],
            hovertext: m.text,
            showarrow: false,
            xanchor: "left",
            font: { size: 11 },
          })),
        },
      }),
      options,
    );
  }
  function times(found) {
    const known = Object.keys(found).filter(t => found[t].layers_ms),
      box = $("timed"),
      before = box.value;
    $("timesbox").hidden = !known.length;
    if (!known.length) return;
    box.replaceChildren();
    choices(box, known, known, known.includes(before) ? before : known[0]);
    const draw = () => {
      const f = found[box.value],
        now = f.layers_ms,
        was = f.float_layers_ms || {},
        names = merged(Object.keys(was), Object.keys(now)),
        sum = o => Object.values(o).reduce((a, b) => a + b, 0);
      Plotly.react(
        "times",
        [
          ["uncompressed", was, "#b6c2cf"],
          ["now", now, colors[0]],
        ].map(([name, o, c]) => ({
          type: "bar",
          name,
          x: names,
          y: names.map(n => o[n] ?? null),
          marker: { color: c },
        })),
        layout("", "ms", {
          x: { tickangle: -60, tickfont: { size: 9 } },
          all: { barmode: "group" },
        }),
        options,
      );
      const most = Object.entries(now)
        .sort((a, b) => b[1] - a[1])
        .slice(0, 3)
        .map(([n, ms]) => `${n} (${Math.round((100 * ms) / sum(now))} %)`)
        .join(", ");
      $("times").setAttribute(
        "aria-label",
        `Milliseconds of each layer in ${box.value}, before and after; most take ${most}`,
      );
      $("timesum").textContent =
        `Most time: ${most}. All layers together ${num(sum(now), 3)} ms${sum(was) ? `, uncompressed ${num(sum(was), 3)} ms` : ""}, by the runtime's own profiler, which takes time itself; what it merged into another layer has no bar, and time between layers is in none.`;
    };
    box.onchange = draw;
    draw();
  }
  function merged(one, two) {
    const all = [...one];
    let place = 0;
    for (const name of two) {
      const at = all.indexOf(name);
      if (at >= 0) place = at + 1;
      else all.splice(place++, 0, name);
    }
    return all;
  }
  function explained(e, name) {
    $("explainbox").hidden = !e;
    if (!e) return;
    const bars = [
      ...e.stages.map(s => [s.name, s.score, colors[0]]),
      ...Object.entries(e.targets).flatMap(([t, f]) => [[t, f.score, colors[2]]]),
    ].filter(b => b[1] != null);
    const low = Math.min(...bars.map(b => b[1])),
      high = Math.max(...bars.map(b => b[1])),
      room = Math.max(0.002, (high - low) * 0.3);
    Plotly.react(
      "stages",
      [
        {
          type: "bar",
          x: bars.map(b => b[0]),
          y: bars.map(b => b[1]),
          text: bars.map(b => num(b[1], 4)),
          textposition: "outside",
          cliponaxis: false,
          marker: { color: bars.map(b => b[2]) },
          hoverinfo: "x+text",
        },
      ],
      layout("", `test ${name}, ${e.images.stages} images`, {
        x: { tickfont: { size: 11 } },
        y: { range: [low - room, high + room] },
      }),
      options,
    );
    $("explained").replaceChildren(...e.said.map(s => node("p", s)));
    const capped = Object.entries(e.targets).flatMap(([t, f]) =>
      f.capped.map(c => [
        `${t}, ${c.cap}`,
        num(c.latency_ms, 3),
        num(c.score, 4),
        percent(c.noise),
      ]),
    );
    $("capped").hidden = !capped.length;
    grid("capped", ["as older processors run it", "ms", name, "differs by"], capped, 1);
    byLayer(e, name);
    $("tried").hidden = !e.tried;
    if (e.tried)
      grid(
        "tried",
        ["tried", "validation", "test", "files", "key"],
        e.tried.map(r => [
          r.what,
          num(r.valid, 4),
          num(r.test, 4),
          r.failed ||
            Object.entries(r.targets)
              .map(
                ([t, f]) =>
                  `${t} ${num(f.score ?? f.top1, 4)}, ${bytes(f.size_bytes)}, ${num(f.latency_ms.median, 3)} ms`,
              )
              .join("; "),
          r.key || "",
        ]),
        1,
      );
  }
  function byLayer(e, name) {
    const rows = e.layers,
      names = rows.map(l => l.name),
      of = (l, part, what) => l[part] && l[part][what],
      worst = l => e.worst.includes(l.name),
      ends = e.ends || {};
    const height = 84 + 18 * rows.length;
    const dots = (label, x, color, symbol, axis) => ({
      type: "scatter",
      mode: "markers",
      name: label,
      x,
      y: names,
      xaxis: axis,
      marker: { color, symbol, size: 8 },
      hovertemplate: "%{y}<br>" + label + " %{x}<extra></extra>",
    });
    const line = (label, x, dash) =>
      x == null
        ? []
        : [
            {
              type: "scatter",
              mode: "lines",
              name: `${label} ${num(x, 4)}`,
              x: names.length > 1 ? [x, x] : [x],
              y: names.length > 1 ? [names[0], names[names.length - 1]] : names,
              line: { color: style("--soft"), dash, width: 1.5 },
              hoverinfo: "skip",
            },
          ];
    const traces = [
      ...line("nothing rounded", ends.float, "solid"),
      ...line("all rounded", ends.rounded, "dash"),
      dots(
        "this layer alone",
        rows.map(l => l.alone),
        colors[2],
        "circle",
        "x",
      ),
      dots(
        "all but this layer",
        rows.map(l => l.left_out),
        colors[3],
        "diamond",
        "x",
      ),
      dots(
        "weights",
        rows.map(l => of(l, "weights", "sqnr_db")),
        colors[0],
        "circle",
        "x2",
      ),
      dots(
        "inputs",
        rows.map(l => of(l, "inputs", "sqnr_db")),
        colors[1],
        "diamond",
        "x2",
      ),
      {
        type: "bar",
        orientation: "h",
        name: "noise",
        showlegend: false,
        x: rows.map(l => 100 * l.noise),
        y: names,
        xaxis: "x3",
        marker: { color: rows.map(l => (worst(l) ? style("--worst") : colors[0])) },
        hovertemplate: "%{y}<br>noise %{x:.2f} %<extra></extra>",
      },
    ];
    const axis = (text, from, to, more) =>
      Object.assign(
        {
          title: { text, standoff: 4 },
          side: "top",
          domain: [from, to],
          gridcolor: style("--line"),
          zeroline: false,
          anchor: "y",
        },
        more,
      );
    const short = n => (n.length > 36 ? "…" + n.slice(-35) : n);
    $("bylayer").style.height = height + "px";
    $("bylayer").setAttribute(
      "aria-label",
      `For each of ${rows.length} layers: ${name} with it alone and all but it rounded, signal to noise, and noise of the outputs; the table below holds the numbers`,
    );
    Plotly.react(
      "bylayer",
      traces,
      layout("", "", {
        y: {
          type: "category",
          categoryorder: "array",
          categoryarray: names,
          autorange: false,
          range: [rows.length - 0.5, -0.5],
          tickvals: names,
          ticktext: rows.map(l => (worst(l) ? `<b>${short(l.name)}</b>` : short(l.name))),
          tickfont: { size: 11 },
        },
        all: {
          height,
          margin: { l: 40, r: 12, t: 76, b: 8 },
          xaxis: axis(`validation ${name}, ${e.images.layers} images`, 0, 0.38),
          xaxis2: axis("signal to noise of rounding, dB", 0.42, 0.7),
          xaxis3: axis("noise of outputs, this layer alone, %", 0.74, 1, { rangemode: "tozero" }),
          legend: { orientation: "h", x: 0, y: 1, yref: "container", yanchor: "top" },
        },
      }),
      options,
    );
    const pair = (l, what, show) => [show(of(l, "weights", what)), show(of(l, "inputs", what))];
    grid(
      "rounded",
      [
        "layer",
        "bits w/x",
        "dB w",
        "dB x",
        "use w",
        "use x",
        "beyond w",
        "beyond x",
        "noise",
        "alone",
        "left out",
      ],
      rows.map(l => [
        l.name,
        `${of(l, "weights", "bits") || 32}/${of(l, "inputs", "bits") || 32}`,
        ...pair(l, "sqnr_db", v => num(v, 1)),
        ...pair(l, "use", percent),
        ...pair(l, "saturated", percent),
        percent(l.noise),
        num(l.alone, 4),
        num(l.left_out, 4),
      ]),
      1,
    );
    rows.forEach((l, i) => {
      if (worst(l)) $("rounded").tBodies[0].rows[i].className = "worst";
    });
    const said = $("roundedsaid");
    said.replaceChildren(
      `w: weights, x: inputs. dB: values over what rounding changes of them. Use: share of the range over which the middle 99.8 % reach; beyond: share of them off its ends, which saturates. Noise: of the outputs with this layer alone rounded. Alone, left out: ${name} on ${e.images.layers} validation images with this layer alone, and all but it, rounded. `,
      node("span", "Marked", "worst"),
      ": most noise.",
    );
  }
  // what has least of x, as far as can be told: of rows that tie with the least, the most accurate
  function least(rows, x, ties) {
    const sorted = [...rows].sort((a, b) => a[x] - b[x]);
    return mostAccurate(sorted.filter(r => ties(r, sorted[0])));
  }
  const mostAccurate = rows =>
    rows.reduce((a, b) => ((b.metric ?? -Infinity) > (a.metric ?? -Infinity) ? b : a));
  // one sentence: what was achieved by the network that is fastest, or smallest where none is surely faster
  function achieved(row, faster) {
    const times = (a, b) => (a / b).toFixed(1) + "×";
    const said = [
      ...(faster ? [times(row.float_ms, row.ms) + " faster"] : []),
      times(row.float_size_bytes, row.size_bytes) + " smaller",
    ];
    const which = Object.keys(D.runs).length === 1 ? "compressed" : faster ? "fastest" : "smallest";
    $("achieved").textContent =
      `In ${row.target}, the ${which} network is ${said.join(" and ")} than the uncompressed one${metricChange(row)}.`;
    $("achieved").hidden = false;
  }
  // the end of that sentence: what became of the first metric
  function metricChange(row) {
    if (row.metric == null || row.float_metric == null) return "";
    const points = 100 * (row.metric - row.float_metric),
      [now, before] = [num(row.metric, 4), num(row.float_metric, 4)];
    if (/^top-/.test(first) && Math.abs(points) >= 0.005)
      return `, ${Math.abs(points).toFixed(2)} points ${points < 0 ? "less" : "more"} accurate`;
    return now === before
      ? `, with the same test ${first}`
      : `, with a test ${first} of ${now} instead of ${before}`;
  }
  function summary() {
    const own = listed().filter(r => r.ms),
      quick = own.filter(r => !r.disturbed && !level(r) && r.float_ms > r.ms),
      keys = Object.keys(D.runs);
    const shown = [
      ...new Set(
        keys
          .map(k => D.runs[k].task)
          .map(
            t =>
              `${t.model} on ${t.data} (${t.test.toLocaleString("en")} test images${several("kind").length && t.kind ? ", " + t.kind : ""})`,
          ),
      ),
    ];
    $("lead").textContent =
      `${keys.length} network${keys.length > 1 ? "s" : ""}, ${shown.join("; ")}`;
    const cards = [];
    if (own.length && tasks(own).length === 1) {
      const oneMachine = tasks(own, "ms").length === 1,
        fast =
          oneMachine && quick.length
            ? least(quick, "ms", (r, other) => r.low_ms <= other.high_ms)
            : null,
        small = least(
          own,
          "size_bytes",
          (r, other) => bytes(r.size_bytes) === bytes(other.size_bytes),
        ),
        good = mostAccurate(own);
      achieved(fast || small, Boolean(fast));
      cards.push(
        [
          num(good.metric, 4),
          `best test ${first} (${good.target}); uncompressed ${num(good.float_metric, 4)}`,
        ],
        fast
          ? [
              (fast.float_ms / fast.ms).toFixed(1) + "×",
              `fastest: ${num(fast.ms, 3)} ms in ${fast.target}, ${first} ${num(fast.metric, 4)}`,
            ]
          : !oneMachine
            ? ["–", "latencies of different machines do not compare"]
            : own.every(r => r.disturbed)
              ? ["–", "no latency was measured well: the machine was busy; run again when it is idle"]
              : ["level", "nothing is surely faster than the uncompressed network"],
        [
          (small.float_size_bytes / small.size_bytes).toFixed(1) + "×",
          `smallest: ${bytes(small.size_bytes)}, ${first} ${num(small.metric, 4)}`,
        ],
      );
    }
    $("cards").replaceChildren(
      ...cards.map(([big, text]) => {
        const c = node("div", null, "card");
        c.append(node("b", big), node("span", text, "soft"));
        return c;
      }),
    );
    $("machine").replaceChildren(
      ...D.machines.map(m => {
        if (!m || !m.python) return node("p", "Not known");
        const gpu = m.gpu ? { driver: m.gpu.driver, CUDA: m.gpu.cuda, cuDNN: m.gpu.cudnn } : {};
        const p = node(
          "p",
          `${m.cpu}, ${m.cores} cores, ${m.memory_gib === undefined ? "" : m.memory_gib + " GiB, "}${m.system}${m.gpu ? ", " + m.gpu.name : ""}. Instruction sets: ${(m.isa || []).join(", ") || "not known"}. Python ${m.python}, ` +
            Object.entries({ ...m.libraries, ...gpu })
              .filter(([, v]) => v)
              .map(([k, v]) => `${k} ${v}`)
              .join(", "),
        );
        return p;
      }),
    );
    for (const k of keys) {
      const o = node("option", `${k}  ${D.runs[k].recipe || "as given"}  (seed ${D.runs[k].seed})`);
      o.value = k;
      $("pick").append(o);
    }
    for (const n of document.querySelectorAll(".firstmetric")) n.textContent = headed(first);
    $("drifts").replaceChildren(...D.drifts.map(text => node("p", text)));
    $("badly").hidden = !own.some(r => r.disturbed);
    $("meansbox").hidden = !D.means.length;
    $("means").onchange = table;
    $("pick").onchange = e => choose(e.target.value);
  }
  function plots() {
    const y = $("y").value;
    for (const n of document.querySelectorAll(".yname")) n.textContent = headed(named(y));
    pareto("plot1", $("x1").value, y);
    pareto("plot2", $("x2").value, y);
  }
  function choices(box, values, texts, first) {
    for (const [i, v] of values.entries()) {
      const o = node("option", texts[i]);
      o.value = v;
      box.append(o);
    }
    if (first != null) box.value = first;
    return box;
  }
  function controls() {
    const having = Object.keys(axes).filter(x => D.rows.some(r => r[x] != null)),
      names = having.map(x => axes[x][0]);
    for (const [id, first] of [
      ["x1", "ms"],
      ["x2", "size_bytes"],
    ])
      choices($(id), having, names, having.includes(first) ? first : having[0]).onchange = plots;
    choices($("y"), ["metric", ...D.scores], [first, ...D.scores.map(title)], "metric").onchange =
      () => {
        plots();
        table(); // which marks what is on the fronts
      };
    $("ybox").hidden = !D.scores.length;
    const add = (name, values, set) => {
      const label = node("label", name + " "),
        box = choices(node("select"), ["", ...values], ["all", ...values], "");
      box.onchange = () => {
        set(box.value);
        plots();
        table();
      };
      label.append(box);
      $("filters").append(label);
    };
    if (targets.length > 1)
      add("runtime", targets, v => {
        wanted.target = v;
      });
    D.facets.forEach((f, i) =>
      add(f.name, f.values, v => {
        if (v) wanted.facets[i] = v;
        else delete wanted.facets[i];
      }),
    );
    if (new Set(D.rows.map(r => r.recipe)).size > 1) {
      const label = node("label", "recipe holds "),
        box = node("input");
      box.type = "search";
      box.oninput = () => {
        wanted.words = box.value.trim().toLowerCase();
        plots();
        table();
      };
      label.append(box);
      $("filters").append(label);
    }
    $("filterbox").hidden = $("filters").children.length < 2 && $("ybox").hidden;
  }
  summary();
  controls();
  table();
  const script = document.createElement("script");
  script.textContent = await plotly;
  document.head.append(script);
  draw();
  dark.addEventListener("change", () => {
    theme = {};
    draw();
  });
  document.body.dataset.ready = "yes";
})().catch(error => {
  $("lead").textContent =
    "This page could not be drawn: " +
    error.message +
    ". It needs a browser of 2023 or later; lissom show prints the same numbers.";
});
