// The page: opening images, and what surrounds the view.

import { Download, amount } from './download.js';
import { listen, listenDivider } from './gestures.js';
import { ask, askJson } from './server.js';
import { Viewer } from './viewer.js';

const $ = (id) => document.getElementById(id);
let info;      // {name, limits, formats} of the server
let image;     // {token, height, width, name} that is shown
let viewer;
let download;
let opening = 0;
let share = 0.5;

function say(text) {
  $('message').textContent = text;
  $('message').hidden = !text;
}

const failed = (error) => say(error.message);

async function open(file) {
  const number = ++opening;
  say('');
  try {
    if (file.size > info.limits.bytes) throw new Error(`${file.name} is too large; at most ${amount(info.limits.bytes)} can be opened.`);
    document.body.classList.add('loading');
    $('status').textContent = `Opens ${file.name}`;
    const opened = await askJson('images', { method: 'POST', body: file });
    if (number !== opening) return discard(opened);
    close();
    image = { ...opened, name: file.name.replace(/\.[^.]*$/, '') || 'image' };
    show();
  } catch (error) {
    failed(error.status === 400 ? new Error(`${file.name}: ${error.message}`) : error);
  } finally {
    document.body.classList.remove('loading');
  }
}

function show() {
  $('open').hidden = true;
  $('look').hidden = $('other').hidden = false;
  viewer = new Viewer($('view'), image, {
    changed: (scale) => { $('factor').textContent = `×${scale < 10 ? scale.toFixed(2) : scale.toFixed(1)}`; },
    progress: (done, all) => {
      $('progress').classList.toggle('busy', done < all);
      $('progress').style.width = `${100 * (done + 0.3) / all}%`;
      if (done < all) $('status').textContent = 'Renders the view';
    },
    rendered: (milliseconds) => { $('status').textContent = `${image.width}×${image.height}, view rendered in ${(milliseconds / 1000).toFixed(1)} s`; },
    failed: (error) => {
      $('progress').classList.remove('busy');
      failed(error);
    },
  });
  viewer.split = share;
  download = new Download(image, info.limits, failed);
  $('view').focus({ preventScroll: true });
}

function discard({ token }) {
  fetch(`images/${token}`, { method: 'DELETE', keepalive: true }).catch(() => {});
}

function close() {
  viewer?.close();
  download?.close();
  if (image) discard(image);
  viewer = download = image = undefined;
}

async function openSample() {
  try {
    const answer = await ask('sample');
    await open(new File([await answer.blob()], 'harbour.png'));
  } catch (error) {
    failed(error);
  }
}

function start() {
  $('model').textContent = info.name;
  $('right').textContent = info.name;
  $('limits').textContent = `Up to ${Math.round(info.limits.pixels / 1e6)} million pixels and ${amount(info.limits.bytes)}. `
    + 'Images stay on the machine that serves this page, and are deleted when you leave.';
  $('format').replaceChildren(...Object.entries(info.formats).map(([value, text]) => new Option(text, value)));

  $('choose').addEventListener('click', () => $('file').click());
  $('other').addEventListener('click', () => $('file').click());
  $('sample').addEventListener('click', openSample);
  $('file').addEventListener('change', () => {
    if ($('file').files.length) open($('file').files[0]);
    $('file').value = '';
  });
  $('in').addEventListener('click', () => viewer.zoom(1.5));
  $('out').addEventListener('click', () => viewer.zoom(1 / 1.5));
  $('fit').addEventListener('click', () => viewer.fit());
  listen($('view'), () => viewer);
  listenDivider($('divider'), (value) => {
    share = value;
    if (viewer) {
      viewer.split = share;
      viewer.draw();
    }
  });
  new ResizeObserver(() => viewer?.resize()).observe($('stage'));

  document.addEventListener('dragover', (event) => {
    event.preventDefault();
    document.body.classList.add('over');
  });
  for (const name of ['dragleave', 'drop']) document.addEventListener(name, () => document.body.classList.remove('over'));
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
  });
  document.addEventListener('paste', (event) => {
    if (event.clipboardData.files.length) open(event.clipboardData.files[0]);
  });
  window.addEventListener('pagehide', close);
  window.addEventListener('pageshow', (event) => { if (event.persisted) location.reload(); });
}

try {
  info = await askJson('model');
  start();
} catch (error) {
  failed(error);
}
