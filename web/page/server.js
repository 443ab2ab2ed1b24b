// Requests to the server. Each throws an Error whose message is one line for the user.

export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The server does not answer. Is it still running?');
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  const text = body.error || `The server answered ${answer.status}.`;
  throw Object.assign(new Error(text[0].toUpperCase() + text.slice(1) + (text.endsWith('.') ? '' : '.')), { status: answer.status });
}

export const askJson = async (path, options) => (await ask(path, options)).json();

// A window {top, left, bottom, right} in pixels of the image → a bitmap of {height, width}; null when it came too late.
export async function askView(token, window, size, by, serial, signal) {
  const edges = [window.top, window.left, window.bottom, window.right].map((edge) => edge.toFixed(9));
  const query = `window=${edges}&size=${size.height},${size.width}&by=${by}&serial=${serial}`;
  const answer = await ask(`images/${token}/view?${query}`, { signal });
  return answer.status === 204 ? null : createImageBitmap(await answer.blob());
}
