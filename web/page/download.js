// The form that upscales the whole image: sizes that belong together, what it will cost, progress, and the file.

import { ask, askJson } from './server.js';

const POLL = 400;  // milliseconds
const FACTOR = 4;  // that is offered first
const $ = (id) => document.getElementById(id);

export class Download {
  constructor(image, limits, failed) {
    this.image = image;              // {token, height, width, name}
    this.limits = limits;
    this.failed = failed;
    this.abort = new AbortController();
    const { signal } = this.abort;
    const on = (id, name, action) => $(id).addEventListener(name, action, { signal });
    on('times', 'input', () => this.fill('times'));
    on('width', 'input', () => this.fill('width'));
    on('height', 'input', () => this.fill('height'));
    on('download', 'submit', (event) => {
      event.preventDefault();
      this.start();
    });
    on('cancel', 'click', () => this.cancel());
    this.idle();
    const largest = Math.floor(10 * Math.sqrt(limits.result_pixels / (image.height * image.width))) / 10;
    $('times').value = Math.max(1, Math.min(FACTOR, largest));
    this.fill('times');
  }

  close() {
    this.abort.abort();
    clearTimeout(this.timer);
    clearTimeout(this.polling);
  }

  get base() {
    return `images/${this.image.token}`;
  }

  get size() {
    return `${$('height').value},${$('width').value}`;
  }

  // One field was changed; the others follow.
  fill(changed) {
    const { height, width } = this.image;
    const value = Number($(changed).value);
    const factor = { times: value, width: value / width, height: value / height }[changed];
    if (!(factor > 0 && Number.isFinite(factor))) return this.judge('Give a factor of at least 1.');
    if (changed !== 'times') $('times').value = Number(factor.toFixed(4));
    if (changed !== 'width') $('width').value = Math.round(width * factor);
    if (changed !== 'height') $('height').value = Math.round(height * factor);
    const pixels = Number($('width').value) * Number($('height').value);
    const wrong = Number($('width').value) < width || Number($('height').value) < height ? 'Give a factor of at least 1.'
      : pixels > this.limits.result_pixels ? `Too large: at most ${Math.round(this.limits.result_pixels / 1e6)} million pixels can be made here.` : '';
    this.judge(wrong);
  }

  judge(wrong) {
    clearTimeout(this.timer);
    $('start').disabled = wrong !== '';
    $('costs').textContent = wrong || '…';
    if (!wrong) this.timer = setTimeout(() => this.showCosts(), 200);
  }

  async showCosts() {
    try {
      const size = this.size;
      const costs = await askJson(`${this.base}/costs?size=${size}`, { signal: this.abort.signal });
      if (size === this.size) $('costs').textContent = `Takes about ${duration(costs.seconds)} and ${amount(costs.bytes)} of memory.`;
    } catch (error) {
      this.fail(error);
    }
  }

  async start() {
    $('start').disabled = true;
    $('working').hidden = false;
    this.show({ state: 'waiting', done: 0 });
    try {
      await ask(`${this.base}/job?size=${this.size}&format=${$('format').value}`, { method: 'POST' });
      this.name = `${this.image.name}_${$('width').value}x${$('height').value}.${$('format').value}`;
      await this.poll();
    } catch (error) {
      this.fail(error);
    }
  }

  async poll() {
    const progress = await askJson(`${this.base}/job`, { signal: this.abort.signal });
    if ($('working').hidden) return;
    this.show(progress);
    if (progress.state === 'failed') throw new Error(progress.error || 'The upscaling failed.');
    if (progress.state === 'done') this.save();
    else this.polling = setTimeout(() => this.poll().catch((error) => this.fail(error)), POLL);
  }

  save() {
    const link = Object.assign(document.createElement('a'), { href: `${this.base}/result`, download: this.name });
    link.click();
    this.idle();
    $('costs').textContent = `${this.name} is in your downloads.`;
  }

  async cancel() {
    clearTimeout(this.polling);
    this.idle();
    try {
      await ask(`${this.base}/job`, { method: 'DELETE' });
    } catch (error) {
      this.fail(error);
    }
  }

  show({ state, done, seconds_left: left }) {
    $('done').value = done;
    const text = { waiting: 'Waits for another image', writing: 'Writes the file', done: 'Done' }[state];
    $('left-time').textContent = text || `${Math.floor(100 * done)} %${left === null ? '' : `, ${duration(left)} left`}`;
  }

  idle() {
    $('working').hidden = true;
    $('start').disabled = false;
  }

  fail(error) {
    if (error.name === 'AbortError') return;
    this.idle();
    this.failed(error);
  }
}

export function duration(seconds) {
  if (seconds < 1.5) return 'a second';
  if (seconds < 90) return `${Math.round(seconds)} seconds`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} minutes` : `${(seconds / 3600).toFixed(1)} hours`;
}

export function amount(bytes) {
  return bytes < 1e9 ? `${Math.max(1, Math.round(bytes / 1e6))} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}
