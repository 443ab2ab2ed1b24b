// The view of an image that is moved and zoomed. What has been rendered stands in, moved and scaled, for what is on its way.
//
// Lengths are pixels of the canvas, but for windows, which are in pixels of the image. `scale` is canvas pixels per image
// pixel: the factor by which the network upscales.

import { askView } from './server.js';

const BLOCK = 384;         // side of the parts in which a view is rendered: each well under a second on two cores
const PAUSE = 90;          // milliseconds without a movement after which the network is asked
const KEPT = 48;           // rendered parts that may stand in
const LARGEST = 128;       // scale; small images go on to LARGEST_VIEW times the scale at which they fit
const LARGEST_VIEW = 40;
const ROUNDING = 1e-6;
const OVERVIEW = 1024;     // longest side of the first view, of the whole image

export class Viewer {
  constructor(canvas, image, callbacks) {
    this.canvas = canvas;
    this.context = canvas.getContext('2d');
    this.image = image;              // {token, height, width}
    this.callbacks = callbacks;      // {changed(scale), progress(done, all), rendered(milliseconds), failed(error)}
    this.split = 0.5;                // share of the width, from the left, that bicubic shows
    this.layers = { bicubic: [], model: [] };
    this.serial = 0;
    this.closed = false;
    this.abort = new AbortController();
    this.resize();
    this.fit();
    this.loadOverview();
  }

  close() {
    this.closed = true;
    this.abort.abort();
    clearTimeout(this.timer);
  }

  // geometry

  get fitting() {
    return Math.min(this.canvas.width / this.image.width, this.canvas.height / this.image.height);
  }

  get largest() {
    return Math.max(LARGEST, LARGEST_VIEW * this.fitting);
  }

  resize() {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight].map((side) => Math.max(1, Math.round(side * ratio)));
    if (width === this.canvas.width && height === this.canvas.height && this.ratio === ratio) return;
    const fitted = this.scale === undefined || this.scale === this.fitting;
    Object.assign(this.canvas, { width, height });
    this.ratio = ratio;
    if (fitted) this.fit(); else this.moved();
  }

  fit() {
    this.scale = this.fitting;
    this.centre = { y: this.image.height / 2, x: this.image.width / 2 };
    this.moved();
  }

  // Moves by canvas pixels.
  pan(y, x) {
    this.centre = { y: this.centre.y - y / this.scale, x: this.centre.x - x / this.scale };
    this.moved();
  }

  // Zooms by a factor. The point (y, x) of the canvas keeps its place.
  zoom(factor, y = this.canvas.height / 2, x = this.canvas.width / 2) {
    const scale = Math.min(Math.max(this.scale * factor, Math.min(this.fitting, 1)), this.largest);
    const change = 1 / this.scale - 1 / scale;
    this.centre.y += (y - this.canvas.height / 2) * change;
    this.centre.x += (x - this.canvas.width / 2) * change;
    this.scale = scale;
    this.moved();
  }

  moved() {
    for (const [axis, side, seen] of [['y', this.image.height, this.canvas.height], ['x', this.image.width, this.canvas.width]]) {
      const half = Math.min(seen / this.scale, side) / 2;
      this.centre[axis] = Math.min(Math.max(this.centre[axis], half), side - half);
    }
    this.serial += 1;
    this.abort.abort();
    this.abort = new AbortController();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.renderModel(), PAUSE);
    this.renderBicubic();
    this.callbacks.changed(this.scale);
    this.draw();
  }

  // The image's left upper corner on the canvas.
  get origin() {
    return { y: this.canvas.height / 2 - this.centre.y * this.scale, x: this.canvas.width / 2 - this.centre.x * this.scale };
  }

  // The pixels of the canvas that the image covers wholly, so that each lies inside it; partly where it is thinner than one.
  get visible() {
    const along = (start, side, seen) => {
      const [low, high] = [Math.max(0, start), Math.min(seen, start + side * this.scale)];
      const [first, last] = [Math.ceil(low - ROUNDING), Math.floor(high + ROUNDING)];
      return first < last ? [first, last] : [Math.floor(low), Math.ceil(high)];
    };
    const [top, bottom] = along(this.origin.y, this.image.height, this.canvas.height);
    const [left, right] = along(this.origin.x, this.image.width, this.canvas.width);
    return { top, left, bottom, right };
  }

  // Left of it is bicubic.
  get border() {
    return Math.round(this.split * this.canvas.width);
  }

  windowOf(box) {
    const { y, x } = this.origin;
    const along = (start, stop, origin, side) => [
      Math.min(Math.max((start - origin) / this.scale, 0), side), Math.min(Math.max((stop - origin) / this.scale, 0), side)];
    const [top, bottom] = along(box.top, box.bottom, y, this.image.height);
    const [left, right] = along(box.left, box.right, x, this.image.width);
    return { top, left, bottom, right };
  }

  // rendering

  async loadOverview() {
    const { height, width, token } = this.image;
    const ratio = Math.min(1, OVERVIEW / Math.max(height, width));
    const size = { height: Math.max(1, Math.round(height * ratio)), width: Math.max(1, Math.round(width * ratio)) };
    const whole = { top: 0, left: 0, bottom: height, right: width };
    try {
      this.overview = { window: whole, bitmap: await askView(token, whole, size, 'bicubic', 0) };
      this.draw();
    } catch (error) {
      this.failed(error);
    }
  }

  // One request at a time; when it is answered, the view at that moment is asked for.
  async renderBicubic() {
    if (this.bicubicOf !== undefined) return;
    try {
      while (this.bicubicOf !== this.serial && !this.closed) {
        this.bicubicOf = this.serial;
        const layer = await this.render(this.visible, 'bicubic');
        if (layer) this.layers.bicubic = [layer];
        this.draw();
      }
    } catch (error) {
      this.failed(error);
    }
    this.bicubicOf = undefined;
  }

  // The view in blocks, those in the middle first, and those behind bicubic last.
  async renderModel() {
    const { serial, abort: { signal }, visible } = this;
    const start = performance.now();
    const blocks = split(visible);
    const middle = { y: this.canvas.height / 2, x: this.canvas.width / 2 };
    const hidden = (box) => (box.right <= this.border ? 1e6 : 0);
    const rank = (box) => hidden(box) + Math.hypot((box.top + box.bottom) / 2 - middle.y, (box.left + box.right) / 2 - middle.x);
    blocks.sort((a, b) => rank(a) - rank(b));
    const fresh = [];
    try {
      for (const [done, block] of blocks.entries()) {
        this.callbacks.progress(done, blocks.length);
        const layer = await this.render(block, 'model', signal);
        if (serial !== this.serial || !layer) return;
        fresh.push(layer);
        this.layers.model = [...this.layers.model, layer].slice(-KEPT);
        this.draw();
      }
      this.layers.model = fresh;
      this.draw();
      this.callbacks.progress(blocks.length, blocks.length);
      this.callbacks.rendered(performance.now() - start);
    } catch (error) {
      this.failed(error);
    }
  }

  async render(box, by, signal) {
    const size = { height: box.bottom - box.top, width: box.right - box.left };
    if (size.height < 1 || size.width < 1) return null;
    const window = this.windowOf(box);
    const bitmap = await askView(this.image.token, window, size, by, this.serial, signal);
    return bitmap && { window, bitmap };
  }

  failed(error) {
    if (error.name !== 'AbortError' && !this.closed) this.callbacks.failed(error);
  }

  // drawing

  draw() {
    this.drawing ??= requestAnimationFrame(() => {
      this.drawing = undefined;
      this.paint();
    });
  }

  paint() {
    const { context, canvas } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = 'high';
    const { y, x } = this.origin;
    const put = ({ window, bitmap }) => {
      const [top, left, bottom, right] = [y + window.top * this.scale, x + window.left * this.scale,
        y + window.bottom * this.scale, x + window.right * this.scale].map(Math.round);  // blocks meet without a gap
      context.drawImage(bitmap, left, top, right - left, bottom - top);
    };
    if (this.overview) put(this.overview);
    this.layers.bicubic.forEach(put);
    context.save();
    context.beginPath();
    context.rect(this.border, 0, canvas.width - this.border, canvas.height);
    context.clip();
    this.layers.model.forEach(put);
    context.restore();
  }
}

// A box in the fewest blocks of at most BLOCK × BLOCK, as even as can be.
function split(box) {
  const cuts = (start, stop) => {
    const parts = Math.ceil((stop - start) / BLOCK);
    return Array.from({ length: parts }, (_, i) => [start + Math.round((stop - start) * i / parts), start + Math.round((stop - start) * (i + 1) / parts)]);
  };
  return cuts(box.top, box.bottom).flatMap(([top, bottom]) => cuts(box.left, box.right).map(([left, right]) => ({ top, left, bottom, right })));
}
