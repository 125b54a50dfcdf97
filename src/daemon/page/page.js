"use strict";
// The page is rendered when something changes, so the age of a save is reckoned here.
function age(seconds) {
  const s = Math.max(0, Date.now() / 1000 - seconds);
  if (s < 90) return Math.floor(s) + " s ago";
  if (s < 5400) return Math.floor(s / 60) + " min ago";
  if (s < 172800) return Math.floor(s / 3600) + " h ago";
  return Math.floor(s / 86400) + " days ago";
}
function show() {
  for (const time of document.querySelectorAll("time[data-unix]")) {
    time.textContent = age(Number(time.dataset.unix));
  }
}
show();
setInterval(show, 1000);
