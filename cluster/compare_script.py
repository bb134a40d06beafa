"""The script of a comparison's page: draws curves on canvases and says what is under the pointer. No other file."""

SCRIPT = r"""
'use strict';
const data = JSON.parse(document.getElementById('curves').textContent);
const tip = document.getElementById('tip');
const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const short = value => {
  const size = Math.abs(value);
  for (const [unit, letter] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']])
    if (size >= unit) return +(value / unit).toPrecision(3) + letter;
  return String(+value.toPrecision(3));
};
const hidden = new Set();  // runs that the reader has switched off
const color = (index, count) => count <= 10
  ? style('--c' + index)
  : `hsl(${Math.round(360 * index / count)} 65% ${matchMedia('(prefers-color-scheme: dark)').matches ? 62 : 42}%)`;

function extent(curves, fromZero) {
  const xs = [], ys = [];
  for (const curve of curves) curve.y.forEach((y, i) => { if (y !== null) { xs.push(curve.x[i]); ys.push(y); } });
  if (!xs.length) return null;
  const sorted = ys.slice().sort((a, b) => a - b);
  // The first steps of a training stand far above the rest: the top hundredth does not set the scale.
  let low = sorted[0], high = sorted[Math.min(sorted.length - 1, Math.ceil(0.99 * sorted.length))];
  if (fromZero) low = Math.min(0, low);
  if (low === high) { low -= 0.5; high += 0.5; }
  const margin = 0.04 * (high - low);
  let right = 0;
  for (const x of xs) right = Math.max(right, x);
  return {left: 0, right: right || 1, low: low - margin, high: high + margin};
}

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(each => each * power).find(each => each >= rough);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(k * step);
  return found;
}

const FEW = 30;  // points of a curve that shows each

class Plot {
  constructor(canvas) {
    this.canvas = canvas;
    this.curves = data.plots[canvas.dataset.plot].curves;
    this.xName = data.plots[canvas.dataset.plot].x;
    this.box = extent(this.curves, canvas.dataset.plot === 'speed');
    canvas.addEventListener('pointermove', event => this.hoverSoon(event));
    canvas.addEventListener('pointerleave', () => { this.event = null; tip.hidden = true; this.draw(); });
  }
  px(x) { return 58 + (x - this.box.left) / (this.box.right - this.box.left) * (this.width - 70); }
  py(y) { return 8 + (this.box.high - y) / (this.box.high - this.box.low) * (this.height - 40); }
  draw(marked = -1, point = null) {
    const ratio = window.devicePixelRatio || 1, canvas = this.canvas, pen = canvas.getContext('2d');
    this.width = canvas.clientWidth; this.height = canvas.clientHeight;
    canvas.width = this.width * ratio; canvas.height = this.height * ratio;
    pen.scale(ratio, ratio);
    pen.font = '11px system-ui, sans-serif';
    canvas.dataset.lines = 0;
    if (!this.box) { pen.fillStyle = style('--faint'); pen.fillText('no values', 58, 30); return; }
    this.grid(pen);
    pen.save();
    pen.beginPath(); pen.rect(58, 8, this.width - 70, this.height - 40); pen.clip();
    const alpha = marked >= 0 ? 0.25 : 0.9;
    const shown = this.curves.filter(curve => !hidden.has(curve.run) && curve.y.some(y => y !== null));
    shown.forEach(curve => { if (curve !== this.curves[marked]) this.line(pen, curve, alpha, 1.4); });
    if (shown.includes(this.curves[marked])) this.line(pen, this.curves[marked], 1, 2.4);
    canvas.dataset.lines = shown.length;
    if (point) {
      pen.fillStyle = color(this.curves[marked].run, data.names.length);
      pen.beginPath(); pen.arc(this.px(point[0]), this.py(point[1]), 4, 0, 7); pen.fill();
    }
    pen.restore();
  }
  grid(pen) {
    pen.strokeStyle = style('--rule'); pen.fillStyle = style('--faint'); pen.lineWidth = 1;
    pen.textAlign = 'right';
    for (const y of ticks(this.box.low, this.box.high, 5)) {
      pen.beginPath(); pen.moveTo(58, this.py(y)); pen.lineTo(this.width - 12, this.py(y)); pen.stroke();
      pen.fillText(short(y), 52, this.py(y) + 4);
    }
    pen.textAlign = 'center';
    for (const x of ticks(this.box.left, this.box.right, 6)) pen.fillText(short(x), this.px(x), this.height - 16);
    pen.fillText(this.xName, 58 + (this.width - 70) / 2, this.height - 3);
  }
  line(pen, curve, alpha, width) {
    pen.globalAlpha = alpha; pen.lineWidth = width; pen.strokeStyle = color(curve.run, data.names.length);
    pen.beginPath();
    let drawing = false;
    curve.x.forEach((x, i) => {
      const y = curve.y[i];
      if (y === null) { drawing = false; return; }
      if (drawing) pen.lineTo(this.px(x), this.py(y)); else pen.moveTo(this.px(x), this.py(y));
      drawing = true;
    });
    pen.stroke();
    if (curve.x.length <= FEW) this.dots(pen, curve, width + 0.8);
    pen.globalAlpha = 1;
  }
  dots(pen, curve, radius) {  // a value alone makes no line
    pen.fillStyle = pen.strokeStyle;
    curve.x.forEach((x, i) => {
      if (curve.y[i] === null) return;
      pen.beginPath(); pen.arc(this.px(x), this.py(curve.y[i]), radius, 0, 7); pen.fill();
    });
  }
  hoverSoon(event) {  // once a frame: the page may hold hundreds of curves
    if (!this.event) requestAnimationFrame(() => {
      const last = this.event;
      this.event = null;
      if (last) this.hover(last);
    });
    this.event = event;
  }
  hover(event) {
    if (!this.box) return;
    const at = this.canvas.getBoundingClientRect(), mx = event.clientX - at.left, my = event.clientY - at.top;
    let best = null;
    this.curves.forEach((curve, index) => curve.x.forEach((x, i) => {
      if (curve.y[i] === null || hidden.has(curve.run)) return;
      const distance = (this.px(x) - mx) ** 2 + (this.py(curve.y[i]) - my) ** 2;
      if (!best || distance < best.distance) best = {distance, index, point: [x, curve.y[i]]};
    }));
    if (!best) return;
    this.draw(best.index, best.point);
    const [x, y] = best.point;
    tip.textContent = `${data.names[this.curves[best.index].run]}: ${y.toPrecision(5)} at ${short(x)} ${this.xName}`;
    tip.hidden = false;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = Math.max(4, Math.min(event.clientX + 12, room)) + 'px';
    tip.style.top = event.clientY + 14 + 'px';
  }
}

const plots = [...document.querySelectorAll('canvas')].map(canvas => new Plot(canvas));
const drawAll = () => {
  plots.forEach(plot => plot.draw());
  document.querySelectorAll('[data-run]').forEach(key => {
    key.style.background = color(+key.dataset.run, data.names.length);
  });
};
// A curve's place in each plot is its run's number.
document.querySelectorAll('[data-toggle]').forEach(button => {
  const run = +button.dataset.toggle;
  button.addEventListener('click', () => {
    if (!hidden.delete(run)) hidden.add(run);
    button.setAttribute('aria-pressed', String(!hidden.has(run)));
    drawAll();
  });
  button.addEventListener('pointerenter', () => plots.forEach(plot => plot.draw(hidden.has(run) ? -1 : run)));
  button.addEventListener('pointerleave', drawAll);
});
addEventListener('resize', drawAll);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawAll);
drawAll();
document.documentElement.dataset.drawn = 'yes';
"""
