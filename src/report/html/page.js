"use strict";
(function () {
  var charts = Array.prototype.slice.call(document.querySelectorAll(".chart"));
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }
  function axis(given) {
    return Object.assign({ automargin: true }, given, {
      gridcolor: colour("--grid"), linecolor: colour("--line"), zerolinecolor: colour("--line")
    });
  }
  function draw(element, width) {
    var plot = JSON.parse(document.getElementById(element.id + "-data").textContent);
    var layout = Object.assign({}, plot.layout, {
      width: width,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--text"), size: 12 },
      margin: { l: 48, r: 12, t: !plot.layout.showlegend ? 12 : element.clientWidth < 600 ? 76 : 36, b: 44 },
      // Names of series grow upward from the chart: on a phone they take several lines.
      legend: Object.assign({}, plot.layout.legend, { y: 1.02, yanchor: "bottom", x: 0 }),
      xaxis: axis(plot.layout.xaxis), yaxis: axis(plot.layout.yaxis)
    });
    if (plot.layout.yaxis2) { layout.yaxis2 = axis(plot.layout.yaxis2); }
    return Plotly.react(element, plot.data, layout, { responsive: true, displayModeBar: false });
  }
  // A chart is drawn when it is about to be seen, so that the text of a long page does not wait for it.
  var drawn = [];
  var nearby = new IntersectionObserver(function (entries) {
    entries.filter(function (entry) { return entry.isIntersecting; }).forEach(function (entry) {
      nearby.unobserve(entry.target);
      drawn.push(entry.target);
      draw(entry.target);
    });
  }, { rootMargin: "300px" });
  // The library is twenty times as large as the page, so that a page shows its text before it loads the library.
  function begin() { charts.forEach(function (chart) { nearby.observe(chart); }); }
  if (window.Plotly) { begin(); } else {
    window.addEventListener("load", function () {
      setTimeout(function () {
        var script = document.createElement("script");
        script.src = document.getElementById("library").getAttribute("data-src");
        script.onload = begin;
        document.body.appendChild(script);
      }, 0);
    });
  }
  dark.addEventListener("change", function () { drawn.forEach(function (chart) { draw(chart); }); });
  // A chart does not shrink with the page that it is printed on: A4 and letter have at least this room.
  // It is drawn anew, since flows of a drawn chart would move to their places while paper waits.
  function redraw(room) {
    if (!window.Plotly) { return; }
    charts.forEach(function (chart) {
      var width = Math.min(room, chart.clientWidth);
      Plotly.purge(chart);
      draw(chart, width < chart.clientWidth ? width : undefined);
    });
  }
  window.addEventListener("beforeprint", function () { redraw(660); });
  window.addEventListener("afterprint", function () { redraw(Infinity); });

  // A table that is wider than the page says so.
  function cue(box) {
    var wide = box.scrollWidth > box.clientWidth + 1, note = box.previousElementSibling;
    var has = note && note.className === "cue";
    box.classList.toggle("wide", wide);
    if (wide && !has) {
      note = document.createElement("p");
      note.className = "cue";
      note.textContent = "Scroll the table sideways for more columns \u2192";
      box.parentNode.insertBefore(note, box);
    } else if (!wide && has) { note.remove(); }
  }
  function cues() { document.querySelectorAll(".scroll").forEach(cue); }
  cues();
  window.addEventListener("resize", cues);
  document.querySelectorAll("details").forEach(function (details) {
    details.addEventListener("toggle", cues);
  });

  document.querySelectorAll("table.sortable").forEach(function (table) {
    var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);
    heads.forEach(function (head, column) {
      head.querySelector("button").addEventListener("click", function () {
        var up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        var rows = Array.prototype.slice.call(table.tBodies[0].rows);
        function key(row) {
          var cell = row.cells[column];
          return cell.hasAttribute("data-value") ? Number(cell.getAttribute("data-value")) : cell.textContent;
        }
        rows.sort(function (a, b) {
          var x = key(a), y = key(b);
          var order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
          return up ? order : -order;
        });
        rows.forEach(function (row) { table.tBodies[0].appendChild(row); });
      });
    });
  });
})();
