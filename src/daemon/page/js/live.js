// Keeps the page current: the server says what has changed, the page asks for that.
import { age } from "./words.js";
import { morph } from "./morph.js";

const POLL = 15_000; // ms between two looks where there is no stream
const RETRY = 60_000; // ms until a stream is asked for again that was refused
const LEAST = 1000; // ms between two looks, however fast things change

function showAges() {
  for (const time of document.querySelectorAll("time[data-unix]")) {
    const text = age(Number(time.dataset.unix));
    if (time.textContent !== text) time.textContent = text;
  }
}

function say(text) {
  const status = document.getElementById("live");
  if (status.textContent !== text) status.textContent = text;
}

/** The page as it is now on the server, into the elements with these ids. False where it is gone. */
export async function refresh(ids) {
  const answer = await fetch(location.pathname, { cache: "no-store" });
  if (!answer.ok) return false;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of ids) {
    const now = page.getElementById(id);
    if (now) morph(document.getElementById(id), document.adoptNode(now));
  }
  showAges();
  return true;
}

/**
 * Calls `look` when something has changed that `concerns` the page: one call at a time, none while the
 * page is hidden. `look` says whether what the page shows is still there.
 */
export function follow(concerns, look) {
  let due = true, busy = false, stream = null, poll = null, next = 0;

  async function run() {
    if (busy || !due || document.hidden) return;
    const wait = next - performance.now();
    if (wait > 0) {
      setTimeout(run, wait);
      return;
    }
    due = false;
    busy = true;
    const start = performance.now();
    try {
      const isThere = await look();
      if (!isThere) say("This run is gone; what it was last is shown.");
      else say(stream ? "Live: what is new appears by itself." : "Looked at every 15 s.");
    } catch {
      say("The daemon does not answer; what it said last is shown.");
    }
    busy = false;
    // A look that takes long is taken less often.
    next = performance.now() + Math.max(LEAST, 4 * (performance.now() - start));
    run();
  }

  function changed() {
    due = true;
    run();
  }

  function hear(event) {
    const news = JSON.parse(event.data);
    const scan = document.querySelector("#last-scan time");
    if (scan && news.last_scan) {
      scan.dataset.unix = news.last_scan;
      showAges();
    }
    // After a pause anything may have changed.
    if (event.type === "hello" || concerns(news)) changed();
  }

  function open() {
    close();
    stream = new EventSource("/api/v1/events");
    for (const name of ["hello", "changes", "alive"]) stream.addEventListener(name, hear);
    stream.onerror = () => {
      // It comes again by itself, unless it was refused.
      if (stream?.readyState !== EventSource.CLOSED) {
        say("The daemon does not answer; trying again.");
        return;
      }
      close();
      poll = setInterval(changed, POLL);
      setTimeout(() => poll && !document.hidden && open(), RETRY);
      changed();
    };
  }

  function close() {
    stream?.close();
    stream = null;
    clearInterval(poll);
    poll = null;
  }

  // A browser has few connections for one server, so a page that nobody sees holds none.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close();
    else {
      open();
      changed();
    }
  });
  showAges();
  setInterval(showAges, 1000);
  if (!document.hidden) open();
  run();
}
