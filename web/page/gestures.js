// Mouse, wheel, touch and keys → movements of a viewer. `viewer()` is the present one.

const WHEEL = 0.0016;      // of zoom for each unit of the wheel
const PINCH = 0.01;        // of a pinch on a touchpad, which browsers report as a wheel with Ctrl
const STEP = 1.25;         // zoom of a key
const SHIFT = 0.12;        // of the view, that an arrow key moves by

export function listen(canvas, viewer) {
  const pointers = new Map();
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const ratio = canvas.width / box.width;
    return { y: (event.clientY - box.top) * ratio, x: (event.clientX - box.left) * ratio };
  };
  const spread = () => {  // middle and distance of the fingers
    const points = [...pointers.values()];
    const [y, x] = ['y', 'x'].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
    return { y, x, distance: points.length > 1 ? Math.hypot(points[0].y - points[1].y, points[0].x - points[1].x) : 0 };
  };

  canvas.addEventListener('pointerdown', (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
  });
  canvas.addEventListener('pointermove', (event) => {
    if (!pointers.has(event.pointerId)) return;
    const before = spread();
    pointers.set(event.pointerId, place(event));
    const after = spread();
    viewer().pan(after.y - before.y, after.x - before.x);
    if (before.distance > 0 && after.distance > 0) viewer().zoom(after.distance / before.distance, after.y, after.x);
  });
  for (const name of ['pointerup', 'pointercancel']) {
    canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
  }
  canvas.parentElement.addEventListener('wheel', (event) => {  // also over the divider
    event.preventDefault();
    const { y, x } = place(event);
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    viewer().zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? PINCH : WHEEL)), y, x);
  }, { passive: false });
  canvas.addEventListener('dblclick', (event) => {
    const { y, x } = place(event);
    viewer().zoom(2, y, x);
  });
  canvas.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [down, across] = [SHIFT * canvas.height, SHIFT * canvas.width];
    const action = {
      ArrowUp: () => viewer().pan(down, 0), ArrowDown: () => viewer().pan(-down, 0),
      ArrowLeft: () => viewer().pan(0, across), ArrowRight: () => viewer().pan(0, -across),
      '+': () => viewer().zoom(STEP), '=': () => viewer().zoom(STEP), '-': () => viewer().zoom(1 / STEP), 0: () => viewer().fit(),
    }[event.key];
    if (action) {
      event.preventDefault();
      action();
    }
  });
}

// The handle between bicubic and the network: `moved(share)` of the width, from 0 to 1.
export function listenDivider(divider, moved) {
  let share = 0.5;
  const set = (value) => {
    share = Math.min(Math.max(value, 0), 1);
    divider.style.left = `${100 * share}%`;
    divider.setAttribute('aria-valuenow', Math.round(100 * share));
    moved(share);
  };
  divider.addEventListener('pointerdown', (event) => divider.setPointerCapture(event.pointerId));
  divider.addEventListener('pointermove', (event) => {
    if (!divider.hasPointerCapture(event.pointerId)) return;
    const box = divider.parentElement.getBoundingClientRect();
    set((event.clientX - box.left) / box.width);
  });
  divider.addEventListener('keydown', (event) => {
    const value = { ArrowLeft: share - 0.02, ArrowRight: share + 0.02, Home: 0, End: 1 }[event.key];
    if (value === undefined) return;
    event.preventDefault();
    set(value);
  });
  set(share);
}
