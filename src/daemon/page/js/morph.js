// Brings a part of the page to what the server says now. What has not changed is not touched, so focus,
// selection, scroll positions and open details stay.

export function morph(old, now) {
  if (old.nodeType !== now.nodeType || old.nodeName !== now.nodeName) {
    old.replaceWith(now);
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== now.data) old.data = now.data;
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) return;
  // The script writes the age where the server has the time.
  if (old.nodeName === "TIME" && old.dataset.unix === now.dataset.unix) return;
  attributes(old, now);
  const wanted = [...now.childNodes];
  wanted.forEach((child, at) => {
    if (at < old.childNodes.length) morph(old.childNodes[at], child);
    else old.append(child);
  });
  while (old.childNodes.length > wanted.length) old.lastChild.remove();
}

function attributes(old, now) {
  for (const { name, value } of now.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    // Whether details are open is the reader's choice.
    if (!now.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
}
